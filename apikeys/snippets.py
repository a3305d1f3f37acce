"""First steps with a key, ready to be pasted: one snippet for each client that works here."""

import json
import re
from dataclasses import dataclass
from typing import Final

_FACT: Final = "I only fly out of Gothenburg."
_QUESTION: Final = "Which airport should I book from?"


@dataclass(frozen=True, slots=True)
class Snippet:
    """`code` for the client `title`; `note` says where it goes."""

    id: str
    title: str
    note: str
    code: str


def user_id_of(email: str) -> str:
    """A user id that reads well and needs no quoting anywhere, made of an e-mail address."""
    return re.sub(r"[^a-z0-9._-]+", "-", email.partition("@")[0].lower()).strip("-._") or "me"


def snippets(*, base_url: str, key: str, user_id: str) -> tuple[Snippet, ...]:
    """Adding and finding a memory of `user_id` with `key`, at `base_url` without a slash.

    None of the three may contain quotes. Keys, the URLs of browsers and `user_id_of` contain none.
    """
    add = {"messages": [{"role": "user", "content": _FACT}], "user_id": user_id}
    find = {"query": _QUESTION, "filters": {"user_id": user_id}}
    return (
        Snippet("curl", "curl", "In a terminal.", _curl(base_url, key, add, find)),
        Snippet(
            "python",
            "Python",
            "Needs the package requests.",
            _python(base_url, key, add, find),
        ),
        Snippet(
            "javascript",
            "JavaScript",
            "Node.js 18 or later, as a module (.mjs).",
            _javascript(base_url, key, add, find),
        ),
        Snippet(
            "opencode",
            "OpenCode",
            "The plugin goes into opencode.json, the rest into the shell that starts OpenCode.",
            _opencode(base_url, key, user_id),
        ),
    )


def _curl(base_url: str, key: str, add: object, find: object) -> str:
    return f"""\
export MEM0_API_KEY={key}

# Add a memory
curl {base_url}/memories \\
  -H "X-API-Key: $MEM0_API_KEY" -H "Content-Type: application/json" \\
  -d '{json.dumps(add)}'

# Find it by what it means
curl {base_url}/search \\
  -H "X-API-Key: $MEM0_API_KEY" -H "Content-Type: application/json" \\
  -d '{json.dumps(find)}'
"""


def _python(base_url: str, key: str, add: object, find: object) -> str:
    return f"""\
import requests

memory = requests.Session()
memory.headers["X-API-Key"] = "{key}"

memory.post("{base_url}/memories", json={add!r}).raise_for_status()

found = memory.post("{base_url}/search", json={find!r})
for result in found.json()["results"]:
    print(result["memory"])
"""


def _javascript(base_url: str, key: str, add: object, find: object) -> str:
    return f"""\
const memory = async (path, body) => {{
  const answer = await fetch("{base_url}" + path, {{
    method: "POST",
    headers: {{ "X-API-Key": "{key}", "Content-Type": "application/json" }},
    body: JSON.stringify(body),
  }});
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}};

await memory("/memories", {json.dumps(add)});

const found = await memory("/search", {json.dumps(find)});
for (const result of found.results) console.log(result.memory);
"""


def _opencode(base_url: str, key: str, user_id: str) -> str:
    return f"""\
# opencode.json
{{ "plugin": ["opencode-mem0-selfhost@0.1.7"] }}

# shell
export MEM0_HOST={base_url}
export MEM0_API_KEY={key}
export MEM0_USER_ID={user_id}
"""
