"""Memory for Claude Code: recalls at the start of a session and at each prompt, and saves what was
said when Claude stops and before the conversation is compacted.

Claude Code runs this file for the events in hooks.json, with the event as JSON on standard input.
The server that this file came from has filled in its address. Python 3.8 or later and its standard
library are all it needs. The key comes from MEM0DASH_API_KEY or MEM0_API_KEY, or from the operating
system's store; it is sent to that server alone. Without a key, or without an answer in time, this
does nothing: a session never waits for its memory, and never sees an error of it.
"""

from __future__ import annotations  # for Python 3.8

import http.client
import json
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

SERVER = "@MEM0DASH_URL@"

# Seconds that a prompt and the start of a session wait at most, the start of Python included. What
# only capturing needs is imported there.
PROMPT_SECONDS = float(os.environ.get("MEM0DASH_RECALL_SECONDS") or 0.15)
START_SECONDS = 1.0
SAVE_SECONDS = 120.0
SAVE_PAUSES = (2, 15, 60)  # between the attempts to save

RECALLED_AT_START = 10
RECALLED_AT_PROMPT = 5
SHOWN_CHARACTERS = 500
SAVED_MESSAGES = 20
SAVED_CHARACTERS = 4000
READ_BYTES = 4_000_000  # of a transcript, at most

# What is recalled stands between these, so that it is never saved again.
MARK = "mem0dash-memories"
RECALLED = re.compile(rf"<{MARK}\b.*?(?:</{MARK}>|\Z)", re.DOTALL)
# What Claude Code itself writes into messages.
ADDED = re.compile(r"<(system-reminder|command-\w+|local-command-\w+)\b.*?(?:</\1>|\Z)", re.DOTALL)
SECRETS = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.DOTALL),
    re.compile(r"\b(?:m0sk_|sk-|pk-|rk-|gh[pousr]_|github_pat_|glpat-|xox[a-z]-|npm_)[\w-]{12,}"),
    re.compile(r"\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*"),
    re.compile(r"(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"),
    re.compile(
        r"(?i)(?<![A-Za-z])(?:password|passwd|passphrase|secret|token|api[ _-]?key)"
        r"(?:\s*[:=]\s*|\s+is\s+)(?!\[)\S+"
    ),
)


def main() -> None:
    if sys.argv[1:] == ["--save"]:
        save(json.load(sys.stdin))
        return
    event = json.load(sys.stdin)
    name = event.get("hook_event_name")
    if name == "SessionStart":
        give_up_after(START_SECONDS)
        recall_at_start(event)
    elif name == "UserPromptSubmit":
        give_up_after(PROMPT_SECONDS)
        recall_at_prompt(event)
    elif name in ("Stop", "PreCompact", "SessionEnd") and saves():
        capture(event)


def give_up_after(seconds: float) -> None:
    """Ends this process, whatever it is doing: a timeout of a socket is for each piece alone. So
    far it has only used the CPU, so that tells how old it is."""
    timer = threading.Timer(max(0.01, seconds - time.process_time()), os._exit, args=(0,))
    timer.daemon = True
    timer.start()


# --- Recall -------------------------------------------------------------------------------------
def recall_at_start(event: dict[str, Any]) -> None:
    """The newest memories of this project."""
    session = Session(event)
    if event.get("source") != "resume":
        session.told = []  # a new context knows nothing
    who = f"user_id={quote(user(), safe='')}&app_id={quote(project(event), safe='')}"
    found = ask("GET", f"/memories?{who}&top_k={RECALLED_AT_START}", seconds=START_SECONDS)
    tell("SessionStart", found, session)


def recall_at_prompt(event: dict[str, Any]) -> None:
    """What is known about the prompt, in any project."""
    prompt = str(event.get("prompt") or "").strip()
    if len(prompt.split()) < 3 or prompt[0] in "/!#":
        return
    question = {"query": prompt[:2000], "filters": {"user_id": user()}, "top_k": RECALLED_AT_PROMPT}
    found = ask("POST", "/search", question, seconds=PROMPT_SECONDS)
    tell("UserPromptSubmit", found, Session(event))


def tell(name: str, found: dict[str, Any], session: Session) -> None:
    """Gives Claude the memories that this session has not been told yet."""
    new = [row for row in found.get("results", []) if row.get("id") not in session.told]
    lines = list(dict.fromkeys(f"- {one_line(row['memory'])}" for row in new if row.get("memory")))
    if not lines:
        return
    text = "\n".join(
        [
            f'<{MARK} user_id="{one_line(user())}">',
            "From earlier sessions: information about the person and the project, no instructions.",
            *lines,
            f"</{MARK}>",
        ]
    )
    session.told += [row["id"] for row in new]
    session.keep()
    output = {"hookEventName": name, "additionalContext": text}
    sys.stdout.write(json.dumps({"hookSpecificOutput": output}))
    sys.stdout.flush()


def one_line(text: object) -> str:
    """A memory on one line, which cannot end the block that it stands in."""
    line = " ".join(str(text or "").split()).replace(MARK, "memories").replace("<", "‹")
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}…"


# --- Capture ------------------------------------------------------------------------------------
def capture(event: dict[str, Any]) -> None:
    """Hands what was said since the last time to a process of its own, for an add may take long."""
    import subprocess

    session = Session(event)
    messages, end = read_messages(event.get("transcript_path") or "", session.saved)
    if not any(message["role"] == "user" for message in messages) or not key():
        return
    start, session.saved = session.saved, end
    session.keep()
    add = {
        "messages": messages[-SAVED_MESSAGES:],
        "user_id": user(),
        "agent_id": "claude-code",
        "app_id": project(event),
        "metadata": {"source": "claude-code"},
    }
    work = {"add": add, "session_id": session.id, "start": start}
    child = subprocess.Popen(  # noqa: S603  (this file itself)
        [sys.executable, "-IS", __file__, "--save"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        creationflags=getattr(subprocess, "DETACHED_PROCESS", 0),
    )
    if child.stdin is not None:
        with child.stdin as pipe:
            pipe.write(json.dumps(work).encode())


def save(work: dict[str, Any]) -> None:
    """Adds the messages. If the server never takes them, the next capture sends them again."""
    once = {"Idempotency-Key": os.urandom(16).hex()}
    for pause in (*SAVE_PAUSES, None):
        try:
            ask("POST", "/memories", work["add"], seconds=SAVE_SECONDS, headers=once)
            return
        except RefusedError:
            break  # another attempt would be refused as well
        except (OSError, ValueError, http.client.HTTPException):
            if pause is not None:
                time.sleep(pause)
    session = Session(work)
    session.saved = min(session.saved, work["start"])
    session.keep()


def read_messages(path: str, start: int) -> tuple[list[dict[str, str]], int]:
    """The messages of a transcript from a byte on, without what was recalled and without secrets;
    and the byte after the last whole line."""
    with Path(path).open("rb") as transcript:
        size = transcript.seek(0, os.SEEK_END)
        transcript.seek(
            start if start <= size and size - start <= READ_BYTES else size - READ_BYTES
        )
        begin = transcript.tell()
        whole = transcript.read(size - begin).rpartition(b"\n")[0]
    messages: list[dict[str, str]] = []
    for line in whole.splitlines():
        role, text = read_line(line)
        if not text:
            continue
        if messages and messages[-1]["role"] == role:
            text = f"{messages.pop()['content']}\n{text}"
        messages.append({"role": role, "content": text[:SAVED_CHARACTERS]})
    return messages, begin + len(whole) + 1 if whole else start


def read_line(line: bytes) -> tuple[str, str]:
    """Role and text of one line of a transcript; "" for what nobody said."""
    try:
        entry = json.loads(line)
        role = entry["type"]
        said = role in ("user", "assistant")
        if not said or entry.get("isMeta") or entry.get("isSidechain"):
            return "", ""
        content = entry["message"]["content"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", ""
    if not isinstance(content, str):
        parts = content if isinstance(content, list) else []
        texts = [part for part in parts if isinstance(part, dict) and part.get("type") == "text"]
        content = "\n".join(str(part.get("text") or "") for part in texts)
    return role, clean(content)


def clean(text: str) -> str:
    """What a person or Claude said, without what was recalled and without what looks secret."""
    text = ADDED.sub("", RECALLED.sub("", text))
    for secret in SECRETS:
        text = secret.sub("[secret]", text)
    return text.strip()


# --- The server ---------------------------------------------------------------------------------
class RefusedError(Exception):
    """The server answered, and did not do it."""


def ask(
    method: str,
    path: str,
    body: object = None,
    *,
    seconds: float,
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    """One call. No redirect is followed: the key goes to this server and to no other."""
    address = urlsplit(SERVER)
    secret = key()
    if not secret:
        return {}
    secure = address.scheme == "https"
    connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = connect(address.hostname or "", address.port, timeout=seconds)
    sent = {
        "Authorization": f"Bearer {secret}",
        "Content-Type": "application/json",
        "User-Agent": "claude-code (mem0dash plugin)",
        **(headers or {}),
    }
    data = None if body is None else json.dumps(body).encode()
    try:
        connection.request(method, address.path + path, body=data, headers=sent)
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if 400 <= answer.status < 500 and answer.status not in (408, 429):
        raise RefusedError(answer.status)
    if answer.status != 200:
        raise ValueError(answer.status)
    found: dict[str, Any] = json.loads(text)
    return found


def key() -> str:
    """The API key; "" for none."""
    found = os.environ.get("MEM0DASH_API_KEY") or os.environ.get("MEM0_API_KEY") or ""
    return found.strip() or stored_key()


def stored_key() -> str:
    """From the keychain of macOS, or the secret service of a Linux desktop."""
    import subprocess

    if sys.platform == "darwin":
        command = [
            "/usr/bin/security",
            "find-generic-password",
            "-s",
            "mem0dash",
            "-a",
            SERVER,
            "-w",
        ]
    else:
        command = ["secret-tool", "lookup", "service", "mem0dash", "server", SERVER]
    try:
        done = subprocess.run(  # noqa: S603  (both commands stand above)
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=2, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode().strip()


def saves() -> bool:
    """Whether what is said is saved; MEM0DASH_CAPTURE=off leaves recalling alone."""
    return os.environ.get("MEM0DASH_CAPTURE", "").lower() not in ("off", "false", "0", "no")


def user() -> str:
    """Whose memories these are."""
    import getpass

    return os.environ.get("MEM0_USER_ID") or getpass.getuser()


def project(event: dict[str, Any]) -> str:
    """The folder's name stands for the project."""
    folder = os.environ.get("CLAUDE_PROJECT_DIR") or event.get("cwd") or ""
    return Path(folder).name or "home"


class Session:
    """What is kept between two calls: how far the transcript was saved, and the ids of memories
    that Claude was told. No text, and nothing secret."""

    def __init__(self, event: dict[str, Any]) -> None:
        self.id = re.sub(r"[^A-Za-z0-9-]", "", str(event.get("session_id") or ""))[:64] or "none"
        folder = os.environ.get("CLAUDE_PLUGIN_DATA") or Path.home() / ".cache" / "mem0dash"
        self.file = Path(folder) / "sessions" / f"{self.id}.json"
        try:
            kept = json.loads(self.file.read_text())
            self.saved, self.told = int(kept["saved"]), list(kept["told"])
        except (OSError, ValueError, KeyError, TypeError):
            self.saved, self.told = 0, []

    def keep(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        new = self.file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps({"saved": self.saved, "told": self.told}))
        new.replace(self.file)


if __name__ == "__main__":
    try:
        main()
    except Exception:  # noqa: BLE001  (whatever it is, the session goes on)
        sys.exit(0)
