"""Clients that write, remember every answer, and check what the server kept of it."""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from prove.server import Client, Server

WORDS: Final = (
    "anchor",
    "basil",
    "canoe",
    "dolphin",
    "ember",
    "falcon",
    "granite",
    "harbour",
    "island",
    "juniper",
    "kettle",
    "lantern",
    "meadow",
    "nutmeg",
    "orchard",
    "pebble",
    "quarry",
    "raven",
    "saffron",
    "thistle",
    "umbrella",
    "velvet",
    "walnut",
    "yarrow",
)
RETRY_SECONDS: Final = 10.0
FOUND_SECONDS: Final = 5.0


@dataclass
class Known:
    """One memory as its writer knows it.

    `text` is the last acknowledged one, `possible` are texts of later updates without an answer.
    `deleted` is None after a delete without an answer.
    """

    text: str
    possible: set[str] = field(default_factory=set)
    deleted: bool | None = False


class Writer:
    """One client with a user of its own. `surprises` are answers that no client should get."""

    def __init__(self, number: int, seed: str) -> None:
        self.user_id = f"writer-{number}"
        self.rng = random.Random(f"{seed}/{number}")
        self.memories: dict[str, Known] = {}
        self.in_flight: dict[str, Any] | None = None
        self.surprises: list[str] = []
        self.acknowledged: Counter[str] = Counter()
        self._count = 0

    def run(self, server: Server, killed: threading.Event) -> None:
        """Writes until the server is gone."""
        client = server.client(timeout=30)
        try:
            while not self.surprises:
                self._step(client)
        except httpx.TransportError as error:
            if not killed.is_set() or isinstance(error, httpx.TimeoutException):
                self.surprises.append(f"{self.user_id}: {error!r} while the server ran")
        finally:
            client.close()

    def _step(self, client: Client) -> None:
        live = [id_ for id_, known in self.memories.items() if known.deleted is False]
        chosen = self.rng.random()
        if chosen < 0.55 or not live:
            self._add(client)
        elif chosen < 0.75:
            self._update(client, self.rng.choice(live))
        elif chosen < 0.9:
            self._delete(client, self.rng.choice(live))
        else:
            self._search(client, self.rng.choice(live))

    def new_text(self) -> str:
        """A text that occurs once."""
        self._count += 1
        words = " ".join(self.rng.sample(WORDS, 4))
        return f"{words} number{self._count} of {self.user_id}"

    def _send(self, client: Client, kind: str, method: str, path: str, **body: Any) -> Any:
        """The answer's body; None, and a surprise, when it was no 200."""
        answer = client.request(method, path, json=body or None)
        if answer.status_code != 200:
            self.surprises.append(
                f"{self.user_id}: {kind}: {answer.status_code} {answer.text[:500]}"
            )
            return None
        self.acknowledged[kind] += 1
        return answer.json()

    def _add(self, client: Client) -> None:
        texts = [self.new_text() for _ in range(self.rng.randint(1, 3))]
        messages = [{"role": "user", "content": text} for text in texts]
        self.in_flight = {"messages": messages, "user_id": self.user_id, "infer": False}
        answer = self._send(client, "add", "POST", "/memories", **self.in_flight)
        self.in_flight = None
        if answer is not None:
            self._note(answer["results"], texts)

    def _note(self, results: list[dict[str, Any]], texts: list[str]) -> None:
        if [result["memory"] for result in results] != texts:
            self.surprises.append(f"{self.user_id}: added {texts}, answered {results}")
        for result in results:
            self.memories[result["id"]] = Known(result["memory"])

    def _update(self, client: Client, id_: str) -> None:
        known, text = self.memories[id_], self.new_text()
        known.possible.add(text)
        if self._send(client, "update", "PUT", f"/memories/{id_}", text=text) is not None:
            known.text = text
            known.possible.clear()

    def _delete(self, client: Client, id_: str) -> None:
        known = self.memories[id_]
        known.deleted = None
        if self._send(client, "delete", "DELETE", f"/memories/{id_}") is not None:
            known.deleted = True

    def _search(self, client: Client, id_: str) -> None:
        """What was acknowledged is found at once."""
        text = self.memories[id_].text
        filters = {"user_id": self.user_id}
        found = self._send(client, "search", "POST", "/search", query=text, filters=filters)
        if found is not None and id_ not in {hit["id"] for hit in found["results"]}:
            self.surprises.append(f"{self.user_id}: {id_} {text!r} is not found")

    def check(self, client: Client) -> None:
        """Every acknowledged outcome holds; what was in flight happened wholly or not at all."""
        rows = {row["id"]: row["memory"] for row in client.listed(**self._everything)}
        for id_, known in self.memories.items():
            if known.deleted is None:
                known.deleted = id_ not in rows
            if known.deleted:
                assert id_ not in rows, f"{id_} was deleted and is back"
                assert client.get(id_) is None, f"{id_} was deleted and is back"
                continue
            assert id_ in rows, f"{id_} {known.text!r} was acknowledged and is lost"
            assert rows[id_] in {known.text, *known.possible}, (
                f"{id_} holds {rows[id_]!r} instead of {known.text!r} or {known.possible}"
            )
            known.text = rows[id_]
            known.possible.clear()
        twice = [text for text, count in Counter(rows.values()).items() if count > 1]
        assert not twice, f"stored twice: {twice}"
        self._check_in_flight({i: text for i, text in rows.items() if i not in self.memories})
        self._check_history(client)
        self._check_search(client)

    @property
    def _everything(self) -> dict[str, Any]:
        return {"user_id": self.user_id, "top_k": 100_000}

    def _check_in_flight(self, unknown: dict[str, str]) -> None:
        sent = [m["content"] for m in self.in_flight["messages"]] if self.in_flight else []
        assert sorted(unknown.values()) in ([], sorted(sent)), (
            f"{list(unknown.values())} stored, which is not all of {sent}"
        )

    def _check_history(self, client: Client) -> None:
        """Of a sample: one ADD, and the last entry tells the state."""
        for id_ in self._sample(list(self.memories)):
            known, history = self.memories[id_], client.history(id_)
            events = [entry["event"] for entry in history]
            assert events[0] == "ADD", f"{id_}: history {events}"
            assert events.count("ADD") == 1, f"{id_}: history {events}"
            assert events.count("DELETE") == int(bool(known.deleted)), f"{id_}: history {events}"
            if not known.deleted:
                assert history[-1]["new_memory"] == known.text, f"{id_}: history {history[-1]}"

    def _check_search(self, client: Client) -> None:
        """Of a sample: what is deleted is never found, what lives is found within seconds."""
        for id_ in self._sample(list(self.memories)):
            known = self.memories[id_]
            deadline = time.monotonic() + FOUND_SECONDS
            while id_ not in self._found(client, known.text) and not known.deleted:
                assert time.monotonic() < deadline, f"{id_} {known.text!r} is not found"
                time.sleep(0.1)
            if known.deleted:
                assert id_ not in self._found(client, known.text), f"{id_} was deleted, is found"

    def _found(self, client: Client, text: str) -> set[str]:
        return {hit["id"] for hit in client.search(text, user_id=self.user_id)}

    def _sample(self, ids: list[str]) -> list[str]:
        return self.rng.sample(ids, min(6, len(ids)))

    def retry(self, client: Client) -> tuple[float, bool]:
        """Sends what was in flight once more: how long that took, and whether it had been stored.

        Nobody but its client can know that it was, so then there are two of it: one is deleted.
        """
        if self.in_flight is None:
            return 0.0, False
        before = {row["id"] for row in client.listed(**self._everything)} - self.memories.keys()
        started = time.monotonic()
        answer = client.request("POST", "/memories", json=self.in_flight)
        seconds = time.monotonic() - started
        assert answer.status_code == 200, f"retry: {answer.status_code} {answer.text}"
        assert seconds < RETRY_SECONDS, f"retry: answered after {seconds:.1f} s"
        self._note(answer.json()["results"], [m["content"] for m in self.in_flight["messages"]])
        self.in_flight = None
        for id_ in before - self.memories.keys():
            client.delete(id_)
        return seconds, bool(before)
