"""Translates an ASGI request into a WSGI environment.

Sources: PEP 3333 ("environ Variables", and "Unicode Issues": text is bytes spelled as Latin-1), the
ASGI specification (HTTP & WebSocket, "HTTP Connection Scope"), RFC 9110 section 5.3 and RFC 9113
section 8.2.3 (how equal headers and cookies are joined).
"""

import io
import sys
from collections.abc import Mapping
from typing import Any, Final

# The body's length is computed from the body itself.
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


def build_environ(scope: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    """The environment of an HTTP request whose body has been read."""
    root, path = _spelled(scope.get("root_path", "")), _spelled(scope["path"])
    if root and f"{path}/".startswith(f"{root}/"):
        path = path[len(root) :]
    # WSGI requires a server name, ASGI does not.
    server, port = scope.get("server") or ("localhost", 80)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": root,
        "PATH_INFO": path,
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "CONTENT_LENGTH": str(len(body)),
        "SERVER_NAME": server,
        "SERVER_PORT": str(port or 0),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if client := scope.get("client"):
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0], str(client[1])
    for name, value in scope["headers"]:
        # As WSGI keys "x_real_ip" and a proxy's "x-real-ip" would be the same, so the former is
        # dropped.
        if name in _FRAMING or b"_" in name:
            continue
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key == "CONTENT_TYPE" else f"HTTP_{key}"
        text = value.decode("latin-1")
        if key in environ:
            text = environ[key] + ("; " if key == "HTTP_COOKIE" else ",") + text
        environ[key] = text
    return environ


def _spelled(text: str) -> str:
    return text.encode().decode("latin-1")
