"""A server's life without any network: start, set-up, use, end. Prints a JSON report.

Meant for a network namespace of its own, where it brings up the loopback interface first. The
server runs with a hook that writes down every address that Python code asks for, and, with
`--strace FILE`, under strace, which sees what native code asks for as well.
"""

import argparse
import fcntl
import json
import socket
import struct
import sys
from pathlib import Path
from typing import Any, Final

from prove.server import Server

# sitecustomize is imported by every Python that starts with the folder on its path.
HOOK: Final = """
import os, sys

def _note(event, arguments):
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        target = arguments[1]
    elif event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}:
        target = arguments[0]
    else:
        return
    line = f"{event} {target!r}\\n".encode()
    file = os.open(os.environ["PROVE_ADDRESSES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, line)
    os.close(file)

sys.addaudithook(_note)
"""
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1


def bring_up_loopback() -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(any_socket, _GET_FLAGS, request))[1]
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh22x", b"lo", flags | _UP))


def interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def live(folder: Path, trace: Path | None) -> dict[str, Any]:
    """What the server answered, from its start to its end."""
    hook = folder / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    watched = {"PYTHONPATH": str(hook), "PROVE_ADDRESSES": str(folder / "addresses")}
    # listen is what the server does for certain: it tells that the trace is of the server.
    calls = "trace=connect,sendto,sendmsg,sendmmsg,listen"
    # -D: strace is a grandchild, so that the server itself gets our signals.
    wrapper = ["strace", "-D", "-f", "-qq", "-e", calls, "-o", str(trace)] if trace else []
    server = Server(folder / "data", watched, wrapper=wrapper)
    try:
        seconds = server.start()
        server.bootstrap()
        client = server.client()
        [added] = client.add("I moved to Lisbon last spring", user_id="alice")
        found = client.search("where does she live now?", user_id="alice")
        listed = client.listed(user_id="alice")
        client.update(added["id"], text="I moved to Porto last spring")
        documentation = [
            client.request("GET", path).status_code for path in ("/docs", "/openapi.json")
        ]
        client.delete(added["id"])
        left = client.listed(user_id="alice")
        server.stop()
    finally:
        server.kill9()
    return {
        "interfaces": interfaces(),
        "start_seconds": seconds,
        "added": added["id"],
        "found": [hit["id"] for hit in found],
        "listed": [row["id"] for row in listed],
        "left": left,
        "documentation": documentation,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--strace", type=Path)
    arguments = parser.parse_args()
    bring_up_loopback()
    json.dump(live(arguments.folder, arguments.strace), sys.stdout)


if __name__ == "__main__":
    main()
