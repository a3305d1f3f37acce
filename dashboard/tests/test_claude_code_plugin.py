"""The plugin for Claude Code as this server serves it: its manifests, and what git reads."""

import ast
import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from dashboard.connect.git import BrokenRequestError, advertise, repository, upload_pack
from dashboard.connect.plugin import plugin_files

pytestmark = [pytest.mark.one_form]

BASE = "https://memory.example.org"
GIT = "/claude-code/mem0dash.git"


def test_the_marketplace_names_one_plugin_of_this_server() -> None:
    answer = Client().get("/claude-code")
    assert answer.headers["Content-Type"] == "application/json"
    found = answer.json()
    assert found["name"] == "mem0dash" and found["owner"]["name"]
    [plugin] = found["plugins"]
    assert plugin["name"] == "mem0dash"
    assert plugin["source"] == {"source": "url", "url": f"http://testserver{GIT}"}


def test_the_files_have_the_address_of_this_server_and_no_key() -> None:
    files = plugin_files(BASE)
    manifest = json.loads(files[".claude-plugin/plugin.json"])
    assert manifest["name"] == "mem0dash"
    servers = json.loads(files[".mcp.json"])["mcpServers"]
    assert servers == {"mem0dash": {"type": "http", "url": f"{BASE}/mcp"}}
    assert f'SERVER = "{BASE}"' in files["hooks/memory.py"].decode()
    assert not any(b"@MEM0DASH" in text or b"m0sk_6" in text for text in files.values())


def test_the_hooks_are_for_recall_and_for_capture() -> None:
    hooks = json.loads(plugin_files(BASE)["hooks/hooks.json"])["hooks"]
    assert set(hooks) == {"SessionStart", "UserPromptSubmit", "Stop", "PreCompact", "SessionEnd"}
    for [entry] in hooks.values():
        [hook] = entry["hooks"]
        assert (
            hook["type"] == "command" and "${CLAUDE_PLUGIN_ROOT}/hooks/memory.py" in hook["command"]
        )


def test_the_hook_runs_on_the_python_of_older_systems() -> None:
    ast.parse(plugin_files(BASE)["hooks/memory.py"].decode(), feature_version=(3, 8))


@pytest.mark.parametrize("base", ['https://x.example/a"b', "https://x.example/a'b;$(id)"])
def test_no_address_breaks_out_of_the_files(base: str) -> None:
    files = plugin_files(base)
    assert json.loads(files[".mcp.json"])["mcpServers"]["mem0dash"]["url"] == f"{base}/mcp"
    tree = ast.parse(files["hooks/memory.py"].decode())
    [server] = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and getattr(node.targets[0], "id", "") == "SERVER"
        and isinstance(node.value, ast.Constant)
    ]
    assert server == base


def test_the_script_is_one_for_sh_and_holds_no_key() -> None:
    answer = Client().get("/claude-code/install.sh")
    script = answer.content.decode()
    assert script.startswith("#!/bin/sh\n") and "m0sk_" not in script
    assert "claude plugin marketplace add http://testserver/claude-code\n" in script
    done = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def git(tmp_path: Path) -> Any:
    """Runs git in a new repository."""
    program = shutil.which("git")
    if program is None:
        pytest.skip("git is not installed: apt-get install git")

    def run(*arguments: str, data: bytes = b"") -> bytes:
        done = subprocess.run(
            [program, *arguments], cwd=tmp_path, input=data, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("init", "--quiet")
    return run


def test_git_reads_the_pack_and_finds_nothing_wrong_with_it(git: Any) -> None:
    files = plugin_files(BASE) | {"a/b/c.txt": b"x" * 300_000, "a.txt": b"", "a-b": b"y"}
    repo = repository(files, "All of it")
    git("unpack-objects", "-q", "--strict", data=repo.pack)
    git("fsck", "--strict", "--full", repo.head)
    listed = git("ls-tree", "-r", "--name-only", repo.head).decode().split()
    assert sorted(listed) == sorted(files)
    for path, data in files.items():
        assert git("cat-file", "blob", f"{repo.head}:{path}") == data


def test_the_same_files_are_the_same_commit_and_others_another_one() -> None:
    heads = [repository(plugin_files(base), "x").head for base in (BASE, BASE, f"{BASE}/other")]
    assert heads[0] == heads[1] != heads[2]


def line(data: bytes) -> bytes:
    return f"{len(data) + 4:04x}".encode() + data


def wanting(head: str, *, after: bytes = b"0009done\n", capabilities: bytes = b"") -> bytes:
    return line(b"want " + head.encode() + capabilities + b"\n") + after


def test_a_clone_is_answered_in_one_go_and_a_shallow_one_in_two() -> None:
    repo = repository({"a.txt": b"x"}, "x")
    assert repo.head.encode() in advertise(repo)
    assert (
        upload_pack(repo, wanting(repo.head, after=b"00000009done\n")) == b"0008NAK\n" + repo.pack
    )
    deepen = line(b"deepen 1") + b"0000"
    assert upload_pack(repo, wanting(repo.head, after=deepen)) == b"0000"
    both = upload_pack(repo, wanting(repo.head, after=deepen + b"0009done\n"))
    assert both == b"00000008NAK\n" + repo.pack
    framed = upload_pack(repo, wanting(repo.head, capabilities=b" side-band-64k"))
    assert framed == b"0008NAK\n" + line(b"\1" + repo.pack) + b"0000"


def test_one_that_has_something_else_gets_all_of_it() -> None:
    repo = repository({"a.txt": b"x"}, "x")
    have = line(b"have " + b"0" * 40 + b"\n")
    assert upload_pack(repo, wanting(repo.head, after=b"0000" + have + b"0000")) == b"0008NAK\n"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"0000",
        b"zzzz",
        b"00",
        b"0003",
        b"fffwant",
        b"ffffwant " + b"0" * 40,
        line(b"want " + b"0" * 40 + b"\n") + b"0009done\n",
        line(b"want \n"),
        b"\xff" * 4,
    ],
)
def test_what_is_not_gits_is_refused(body: bytes) -> None:
    with pytest.raises(BrokenRequestError):
        upload_pack(repository({"a.txt": b"x"}, "x"), body)
    answer = Client().post(f"{GIT}/git-upload-pack", body, content_type="application/x-git")
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"no gzip", "gzip"),
        (gzip.compress(b"0" * 1_000_000, mtime=0), "gzip"),
        (gzip.compress(b"0000", mtime=0)[:9], "gzip"),
    ],
)
def test_a_body_that_is_packed_badly_or_too_large_is_refused(body: bytes, encoding: str) -> None:
    headers = {"Content-Encoding": encoding}
    answer = Client().post(
        f"{GIT}/git-upload-pack", body, content_type="application/x-git", headers=headers
    )
    assert answer.status_code == 400


def test_a_packed_body_is_understood() -> None:
    refs = Client().get(f"{GIT}/info/refs", {"service": "git-upload-pack"})
    assert refs.headers["Content-Type"] == "application/x-git-upload-pack-advertisement"
    head = refs.content.split(b" HEAD")[0][-40:].decode()
    answer = Client().post(
        f"{GIT}/git-upload-pack",
        gzip.compress(wanting(head, after=b"00000009done\n")),
        content_type="application/x-git-upload-pack-request",
        headers={"Content-Encoding": "gzip"},
    )
    assert answer.status_code == 200 and answer.content.startswith(b"0008NAK\nPACK")


@pytest.mark.parametrize("query", ["", "?service=git-receive-pack", "?service="])
def test_nothing_can_be_pushed(query: str) -> None:
    assert Client().get(f"{GIT}/info/refs{query}").status_code == 400
    assert Client().post(f"{GIT}/git-receive-pack", b"0000", content_type="x").status_code == 404
    for path in ("HEAD", "config", "objects/info/packs", "../settings.py"):
        assert Client().get(f"{GIT}/{path}").status_code == 404
