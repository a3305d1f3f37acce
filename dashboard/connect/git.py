"""A git repository in memory, and git's smart HTTP protocol for those who clone it.

Claude Code installs plugins with git, which clones in depth 1, and that no plain files can answer.
The repository has one commit, without a parent, so every answer holds all of it: there is nothing
to negotiate. Formats: gitformat-pack(5), gitprotocol-pack(5) and gitprotocol-http(5), version 0.
"""

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

BRANCH: Final = b"refs/heads/main"
_CAPABILITIES: Final = (
    b"side-band-64k shallow no-progress symref=HEAD:refs/heads/main agent=mem0dash"
)
_TYPES: Final = {"commit": 1, "tree": 2, "blob": 3}
_FLUSH: Final = b"0000"
# A piece of a pack in one line of the protocol.
_PIECE: Final = 65_000


@dataclass(frozen=True, slots=True)
class Repository:
    """`head` is the id of the commit, `pack` all objects as git packs them."""

    head: str
    pack: bytes


class BrokenRequestError(ValueError):
    """A request that is not git's."""


def repository(files: Mapping[str, bytes], message: str) -> Repository:
    """The repository with these files, by path. The same files give the same commit, whoever asks
    and whenever: it has no author and no time."""
    objects: dict[str, tuple[str, bytes]] = {}
    tree = _put_tree(files, objects)
    by = "mem0dash <> 0 +0000"
    commit = f"tree {tree}\nauthor {by}\ncommitter {by}\n\n{message}\n"
    head = _put("commit", commit.encode(), objects)
    body = b"PACK" + (2).to_bytes(4, "big") + len(objects).to_bytes(4, "big")
    body += b"".join(_packed(kind, data) for kind, data in objects.values())
    return Repository(head, body + _sha1(body).digest())


def advertise(repo: Repository) -> bytes:
    """The answer to `GET info/refs?service=git-upload-pack`."""
    head = repo.head.encode()
    lines = (
        _line(b"# service=git-upload-pack\n") + _FLUSH,
        _line(head + b" HEAD\0" + _CAPABILITIES + b"\n"),
        _line(head + b" " + BRANCH + b"\n") + _FLUSH,
    )
    return b"".join(lines)


def upload_pack(repo: Repository, request: bytes) -> bytes:
    """The answer to `POST git-upload-pack`; BrokenRequestError for a body that is not git's, and
    for one that wants another commit."""
    lines = [line.rstrip(b"\n") for line in _lines(request)]
    wants = [line.split(b" ") for line in lines if line.startswith(b"want ")]
    if not wants or any(want[1] != repo.head.encode() for want in wants):
        raise BrokenRequestError("This repository has one commit, and something else was wanted.")
    # How far the history is cut off: not at all, for the commit has no parent.
    answer = _FLUSH if any(line.startswith(b"deepen ") for line in lines) else b""
    has_ended = b"done" in lines
    if has_ended or any(line.startswith(b"have ") for line in lines):
        answer += _line(b"NAK\n")
    if not has_ended:
        return answer
    if b"side-band-64k" not in wants[0][2:]:
        return answer + repo.pack
    pieces = (repo.pack[at : at + _PIECE] for at in range(0, len(repo.pack), _PIECE))
    return answer + b"".join(_line(b"\1" + piece) for piece in pieces) + _FLUSH


def _sha1(data: bytes) -> "hashlib._Hash":
    return hashlib.sha1(data, usedforsecurity=False)  # git names its objects so


def _put(kind: str, data: bytes, objects: dict[str, tuple[str, bytes]]) -> str:
    """Adds an object; its id."""
    id_ = _sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()
    objects[id_] = kind, data
    return id_


def _put_tree(files: Mapping[str, bytes], objects: dict[str, tuple[str, bytes]]) -> str:
    """Adds these files and their folders; the id of the folder that holds them."""
    folders: dict[str, dict[str, bytes]] = {}
    entries: list[tuple[str, str, str]] = []  # what they are sorted by, mode and name, id
    for path, data in files.items():
        name, _, rest = path.partition("/")
        if rest:
            folders.setdefault(name, {})[rest] = data
        else:
            entries.append((name, f"100644 {name}", _put("blob", data, objects)))
    for name, inside in folders.items():
        entries.append((f"{name}/", f"40000 {name}", _put_tree(inside, objects)))
    body = b"".join(
        entry.encode() + b"\0" + bytes.fromhex(id_) for _, entry, id_ in sorted(entries)
    )
    return _put("tree", body, objects)


def _packed(kind: str, data: bytes) -> bytes:
    """An object in a pack: its kind and its size, seven bits a byte after the first four."""
    size = len(data)
    head = bytearray([_TYPES[kind] << 4 | size & 0b1111])
    size >>= 4
    while size:
        head[-1] |= 0b1000_0000
        head.append(size & 0b0111_1111)
        size >>= 7
    return bytes(head) + zlib.compress(data)


def _line(data: bytes) -> bytes:
    return f"{len(data) + 4:04x}".encode() + data


def _lines(request: bytes) -> Iterator[bytes]:
    """The lines of a request; BrokenRequestError where it is cut off."""
    at = 0
    while at < len(request):
        try:
            size = int(request[at : at + 4], 16)
        except ValueError:
            raise BrokenRequestError("A line does not begin with its length.") from None
        if size == 0:
            at += 4
            continue
        if size < 4 or at + size > len(request):
            raise BrokenRequestError("A line is not as long as it says.")
        yield request[at + 4 : at + size]
        at += size
