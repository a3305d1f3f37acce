"""A client of the memserv dialect, as mem0-server's guide has it: a bearer token, JSON, /api/v1."""

import shlex
from typing import Any

HOST = "https://mem0.your-domain.com"


class Memserv:
    """Calls below /api/v1/memories with one key."""

    def __init__(self, client: Any, key: str | None, **headers: str) -> None:
        self.client = client
        self.headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **headers}

    def __call__(self, method: str, path: str = "", body: Any = None, **headers: str) -> Any:
        call = getattr(self.client, method.lower())
        rest = {} if body is None else {"data": body, "content_type": "application/json"}
        return call(f"/api/v1/memories{path}", headers={**self.headers, **headers}, **rest)

    def ok(self, method: str, path: str = "", body: Any = None, **headers: str) -> Any:
        """The answer, which has to be 200."""
        answer = self(method, path, body, **headers)
        assert answer.status_code == 200, answer.content
        return answer.json()

    def add(self, content: str, **fields: Any) -> str:
        """Stores a text; the id of its memory."""
        [one] = self.ok("POST", "", {"content": content, **fields})["results"]
        return str(one["id"])

    def search(self, query: str, **fields: Any) -> list[dict[str, Any]]:
        return list(self.ok("POST", "/search", {"query": query, **fields})["results"])

    def texts(self, query: str, **fields: Any) -> list[str]:
        return [one["memory"] for one in self.search(query, **fields)]

    def listed(self, query: str = "") -> list[str]:
        return [one["memory"] for one in self.ok("GET", f"?{query}")["results"]]


def curl(client: Any, command: str, key: str) -> Any:
    """The answer to a curl command of the guide, sent as curl sends it; only the key is put in."""
    [name, *words] = shlex.split(command.replace("$MEM0_API_KEY", key).replace("\\\n", " "))
    assert name == "curl"
    method, url, headers, body = "", "", {}, None
    while words:
        word = words.pop(0)
        if word == "-X":
            method = words.pop(0)
        elif word == "-H":
            header, _, value = words.pop(0).partition(": ")
            headers[header] = value
        elif word == "-d":
            body = words.pop(0)
        else:
            url = word
    assert url.startswith(HOST)
    call = getattr(client, (method or ("post" if body else "get")).lower())
    kind = headers.pop("Content-Type", "application/x-www-form-urlencoded")
    rest = {"data": body, "content_type": kind} if body is not None else {}
    return call(url.removeprefix(HOST), headers=headers, **rest)
