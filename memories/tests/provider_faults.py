"""What the stub provider can be told to do wrong."""

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

KEPT_REQUESTS: Final = 10_000

Body = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What a client sent; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    at: float
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """One misbehaviour. `left` calls still get it, None is for ever."""

    kind: str
    name: str
    left: int | None
    options: Body = field(default_factory=dict)
    applies: Callable[[Body], bool] = lambda _: True
    # How many calls have got it.
    used: int = 0
    # For `hold`: set once a call has arrived, and to let the calls go on.
    entered: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Ends it for the calls to come, and lets go of those that it holds."""
        self.left = 0
        self.released.set()

    release = stop


def sent_value(body: Body, name: str) -> Any:
    """A parameter of a request, where the dialects have it."""
    for place in (body, body.get("options"), body.get("generationConfig")):
        if isinstance(place, dict) and name in place:
            return place[name]
    return None


class Part:
    """One service of the provider: its calls, and how it misbehaves.

    Of each kind of fault (delay, refusal, ending, content, dress, vectors) a call gets the oldest
    that still applies, so `fail(429, times=1)` and `fail(500, times=1)` answer two calls. Every
    method takes `times`, and returns the Fault, which can be stopped.
    """

    def __init__(self) -> None:
        self.requests: deque[Request] = deque(maxlen=KEPT_REQUESTS)
        self.count = 0
        self.texts = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self._faults: list[Fault] = []
        self.lock = threading.Lock()

    # --- Any answer -----------------------------------------------------------------------------
    def slow(self, seconds: float, *, times: int | None = None) -> Fault:
        """Answers later."""
        return self._add("delay", "slow", times, seconds=seconds)

    def hold(self, *, times: int | None = None) -> Fault:
        """Answers when the fault is released; `fault.entered` tells that a call waits."""
        return self._add("delay", "hold", times)

    # A server that hangs holds its calls until the client gives up.
    hang = hold

    def fail(
        self,
        status: int = 500,
        *,
        retry_after: float | None = None,
        as_date: bool = False,
        message: str | None = None,
        code: str | None = None,
        times: int | None = None,
    ) -> Fault:
        """Answers with an error; `retry_after` seconds are sent as such or as an HTTP date."""
        return self._add(
            "ending", "fail", times, status=status, retry_after=retry_after, as_date=as_date,
            message=message or f"The server answers {status}.",
            code=code or {429: "rate_limit_exceeded"}.get(status),
        )  # fmt: skip

    def missing_model(self, name: str | None = None, *, times: int | None = None) -> Fault:
        """Knows no such model: 404. `name` limits it to one model."""
        fault = self.fail(404, code="model_not_found", times=times)
        fault.options["message"] = "The model does not exist or you do not have access to it."
        fault.applies = lambda body: name is None or body.get("model") == name
        return fault

    def refuse(
        self, param: str, *, value: Any = None, message: str | None = None, times: int | None = None
    ) -> Fault:
        """400 for calls that send `param` (with `value` only, if one is given)."""
        fault = self._add("refusal", "refuse", times, param=param, message=message)
        fault.applies = lambda body: (
            (sent := sent_value(body, param)) is not None and (value is None or sent == value)
        )
        return fault

    def redirect(self, location: str, *, status: int = 307, times: int | None = None) -> Fault:
        """Sends the client elsewhere."""
        return self._add("ending", "redirect", times, location=location, status=status)

    def reset(self, *, times: int | None = None) -> Fault:
        """Sends half the answer and resets the connection."""
        return self._add("ending", "reset", times)

    def drip(self, *, times: int | None = None) -> Fault:
        """Sends a blank now and then, and never comes to the answer."""
        return self._add("ending", "drip", times, size=1, pause=0.1)

    def flood(self, *, times: int | None = None) -> Fault:
        """Sends blanks without end, as fast as they are taken."""
        return self._add("ending", "drip", times, size=65_536, pause=0)

    def pack(self, *, times: int | None = None) -> Fault:
        """Compresses the answer, whether the client asked for it or not."""
        return self._add("ending", "pack", times)

    def truncate(self, *, times: int | None = None) -> Fault:
        """Answers 200 with the first half of the JSON."""
        return self._add("ending", "truncate", times)

    def answer_raw(
        self, data: str, *, content_type: str = "text/html", times: int | None = None
    ) -> Fault:
        """Answers 200 with anything, as a captive portal does."""
        return self._add("ending", "raw", times, data=data, content_type=content_type)

    def heal(self) -> None:
        """Ends all misbehaviour."""
        with self.lock:
            for fault in self._faults:
                fault.stop()
            self._faults.clear()

    # --- What the server asks -------------------------------------------------------------------
    def take(self, kind: str, body: Body) -> Fault | None:
        """The fault of this kind for a call, which is thereby used once."""
        with self.lock:
            for fault in self._faults:
                if fault.kind == kind and fault.left != 0 and fault.applies(body):
                    fault.used += 1
                    fault.left = None if fault.left is None else fault.left - 1
                    return fault
        return None

    def enter(self, request: Request) -> None:
        with self.lock:
            self.requests.append(request)
            self.count += 1
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def leave(self) -> None:
        with self.lock:
            self.in_flight -= 1

    def _add(self, kind: str, name: str, times: int | None, **options: Any) -> Fault:
        fault = Fault(kind, name, times, options)
        with self.lock:
            self._faults.append(fault)
        return fault


class Chat(Part):
    """The LLM."""

    def answer(self, content: str | None, *, times: int | None = None) -> Fault:
        """Says exactly this."""
        return self._add("content", "answer", times, content=content)

    def answer_memories(self, *texts: str, times: int | None = None) -> Fault:
        """Extracts exactly these."""
        rows = [{"text": text, "attributed_to": "user"} for text in texts]
        return self.answer(json.dumps({"memory": rows}, ensure_ascii=False), times=times)

    def empty_list(self, *, times: int | None = None) -> Fault:
        return self.answer('{"memory": []}', times=times)

    def broken_json(self, *, times: int | None = None) -> Fault:
        return self.answer('{"memory": [{"text": "Likes tea", "attributed_to": ', times=times)

    def empty_content(self, *, times: int | None = None) -> Fault:
        return self.answer("", times=times)

    def null_content(self, *, times: int | None = None) -> Fault:
        return self.answer(None, times=times)

    def dress(self, before: str = "", after: str = "", *, times: int | None = None) -> Fault:
        """Puts text around what it says."""
        return self._add("dress", "dress", times, before=before, after=after)

    def think(self, *, times: int | None = None) -> Fault:
        """Thinks aloud first, with braces, as reasoning models do."""
        thought = '<think>The user says {something}; maybe {"memory": []}?</think>\n'
        return self.dress(thought, times=times)

    def fence(self, *, times: int | None = None) -> Fault:
        """Explains, and puts what it says into a code fence."""
        return self.dress("Here are the memories:\n```json\n", "\n```\nAnything else?", times=times)


class Embeddings(Part):
    """The embedder."""

    def wrong_dims(self, dims: int, *, times: int | None = None) -> Fault:
        """Vectors of this length, whatever was asked for."""
        return self._add("vectors", "wrong_dims", times, dims=dims)

    def not_a_number(self, value: str = "nan", *, times: int | None = None) -> Fault:
        """A component that is nan, inf or -inf."""
        return self._add("vectors", "not_a_number", times, value=float(value))

    def too_few(self, *, missing: int = 1, times: int | None = None) -> Fault:
        """Leaves out the last vectors."""
        return self._add("vectors", "too_few", times, missing=missing)

    def shuffle(self, *, times: int | None = None) -> Fault:
        """Vectors in another order, each with its right `index`."""
        return self._add("vectors", "shuffle", times)

    def zeros(self, *, times: int | None = None) -> Fault:
        """Vectors without a direction."""
        return self._add("vectors", "zeros", times)
