"""Without any network the server starts and works, and it never even tries to reach one."""

import ipaddress
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from prove.conftest import need, need_program
from prove.environment import ROOT, clean_environment
from prove.offline import HOOK

DNS: Final = "53"
# strace writes sin_port=htons(53), sin_addr=inet_addr("192.0.2.1"), or inet_pton(AF_INET6, "…").
_ADDRESS: Final = re.compile(
    r"AF_INET6?\b.*?port=htons\((\d+)\).*?(?:inet_addr\(|AF_INET6, )\"([^\"]+)\""
)


def outside(host: str) -> bool:
    """Whether a host name or address is not of this machine."""
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return host not in {"localhost", ""}
    return not (address.is_loopback or address.is_unspecified)


def attempts_in_trace(lines: Iterable[str]) -> list[str]:
    """System calls towards another machine, or towards a name server wherever it is."""
    found = []
    for line in lines:
        match = _ADDRESS.search(line)
        if match and (match[1] == DNS or outside(match[2])):
            found.append(line.strip())
    return found


def attempts_in_addresses(lines: Iterable[str]) -> list[str]:
    """Addresses that Python code asked for: ('192.0.2.1', 443) or a name, never a local path."""
    found = []
    for line in lines:
        event, _, target = line.strip().partition(" ")
        host = re.match(r"\(?b?'([^']*)'(,|$)", target)
        is_path = event != "socket.getaddrinfo" and target.startswith(("'/", "b'", "'\\x00"))
        if host and not is_path and outside(host[1]):
            found.append(line.strip())
    return found


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    """The command that runs another one in a network namespace with nothing in it."""
    unshare = need_program("unshare", "util-linux")
    for command in ([unshare, "--net"], [unshare, "--map-root-user", "--net"]):
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    need(False, "network namespaces are not allowed here: run as root, or with CAP_SYS_ADMIN")
    return []


@pytest.fixture(scope="module")
def strace() -> str | None:
    """strace, where it is installed and may trace."""
    found = shutil.which("strace")
    if found is None:
        return None
    tried = subprocess.run([found, "-qq", "-o", "/dev/null", "true"], check=False)
    return found if tried.returncode == 0 else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("offline")


@pytest.fixture(scope="module")
def report(model: str, namespace: list[str], strace: str | None, folder: Path) -> dict[str, Any]:
    """What prove/offline.py saw in its namespace."""
    command = [*namespace, sys.executable, "-m", "prove.offline", str(folder)]
    if strace:
        command += ["--strace", str(folder / "trace")]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**clean_environment(), "MEM0DASH_MODEL_DIR": model},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def test_it_starts_stores_finds_by_meaning_and_ends(report: dict[str, Any]) -> None:
    assert report["interfaces"] == ["lo"]
    assert report["found"] == report["listed"] == [report["added"]]
    assert report["left"] == []
    assert report["documentation"] == [200, 200]
    print(f"started in {report['start_seconds']:.1f} s")


def test_no_python_code_asks_for_another_machine(report: dict[str, Any], folder: Path) -> None:
    addresses = folder / "addresses"
    lines = addresses.read_text().splitlines() if addresses.exists() else []
    assert attempts_in_addresses(lines) == []


def test_no_system_call_asks_for_another_machine(
    report: dict[str, Any], folder: Path, strace: str | None
) -> None:
    need(strace, "strace cannot be used here: apt-get install strace (and allow ptrace)")
    lines = (folder / "trace").read_text().splitlines()
    assert any("listen(" in line for line in lines), "the trace is not of the server"
    assert attempts_in_trace(lines) == []


def test_the_watch_sees_an_attempt_when_there_is_one(
    namespace: list[str], strace: str | None, tmp_path: Path
) -> None:
    """Otherwise finding none would prove nothing."""
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    probe = (
        "import contextlib, socket\n"
        "with contextlib.suppress(OSError):\n"
        "    socket.create_connection(('192.0.2.1', 443), timeout=1)\n"
        "with contextlib.suppress(OSError):\n"
        "    socket.create_connection(('telemetry.example', 443), timeout=1)\n"
        "with contextlib.suppress(OSError):\n"
        "    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.53', 53))\n"
        "with contextlib.suppress(OSError):\n"
        "    socket.socket(socket.AF_UNIX).connect('/nowhere')\n"
        "with contextlib.suppress(OSError):\n"
        "    socket.create_connection(('127.0.0.1', 1), timeout=1)\n"
    )
    tracing = [strace, "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(tmp_path / "trace")]
    command = [*namespace, *(tracing if strace else []), sys.executable, "-c", probe]
    environment = {
        **clean_environment(),
        "PYTHONPATH": str(tmp_path),
        "PROVE_ADDRESSES": str(tmp_path / "addresses"),
    }
    subprocess.run([str(part) for part in command], env=environment, timeout=60, check=True)
    asked = attempts_in_addresses((tmp_path / "addresses").read_text().splitlines())
    assert {line.split()[1].strip("(',") for line in asked} == {"192.0.2.1", "telemetry.example"}
    if strace:
        called = attempts_in_trace((tmp_path / "trace").read_text().splitlines())
        assert any("192.0.2.1" in line for line in called)
        assert any("127.0.0.53" in line for line in called)
        assert not any('"127.0.0.1"' in line for line in called)
