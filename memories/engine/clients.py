"""Limits for the HTTP clients inside the providers' SDKs."""

import importlib
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

from memories.engine import failures

CONNECT_SECONDS: Final = 5.0
# Larger than any answer of a model.
ANSWER_BYTES: Final = 64 * 1024 * 1024


def limit_client(client: Any, seconds: float, most: int | None = None) -> None:
    """Turns off retries and redirects inside the SDK, and sets a timeout for every call. An answer
    may have at most `most` bytes, by default ANSWER_BYTES.

    A redirect would send the texts to a host that nobody configured.
    """
    if hasattr(client, "max_retries"):
        client.max_retries = 0
    if (inner := getattr(client, "_api_client", None)) is not None:  # google-genai
        inner._http_options.timeout = round(seconds * 1000)
    http = _http(client)
    if http is None:
        return
    timeout = type(http.timeout)(seconds, connect=CONNECT_SECONDS)
    http.follow_redirects = False
    http.timeout = timeout
    if hasattr(client, "timeout"):
        client.timeout = timeout
    hooks = http.event_hooks
    http.event_hooks = {**hooks, "response": [*hooks["response"], _limit(seconds, most)]}


def refuse_packed(client: Any) -> None:
    """Requests uncompressed answers and refuses others. A few compressed bytes may unpack to
    gigabytes, and the limit on an answer counts bytes on the wire."""
    http = _http(client)
    if http is None:
        return
    http.headers["Accept-Encoding"] = "identity"
    hooks = http.event_hooks
    http.event_hooks = {**hooks, "response": [*hooks["response"], _refuse_packed]}


def _refuse_packed(response: Any) -> None:
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        cause = "The answer is compressed, which was not asked for."
        raise failures.failure(failures.MALFORMED, cause)


def _http(client: Any) -> Any:
    """The httpx client inside an SDK's client; None if it has none."""
    inner = getattr(client, "_api_client", None)  # google-genai
    return getattr(client, "_client", None) if inner is None else inner._httpx_client


def _limit(seconds: float, most: int | None) -> Callable[[Any], None]:
    """A timeout for the whole answer; the clients' own timeout restarts with every byte."""

    def limit(response: Any) -> None:
        # httpx, or httpx2 with the same interface: the SDKs differ.
        library = type(response).__module__.partition(".")[0]
        until = time.monotonic() + seconds
        response.stream = _limited_stream(library)(response.stream, until, most or ANSWER_BYTES)

    return limit


@cache
def _limited_stream(library: str) -> Callable[[Any, float, int], Any]:
    base: Any = importlib.import_module(library).SyncByteStream

    class Limited(base):  # type: ignore[misc]  # the library is known only at run time
        def __init__(self, stream: Any, until: float, most: int) -> None:
            self._stream, self._until, self._most = stream, until, most

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in self._stream:
                size += len(chunk)
                if size > self._most:
                    raise failures.failure(failures.MALFORMED, "The answer has no end.")
                if time.monotonic() > self._until:
                    raise failures.failure(failures.TIMEOUT, "The answer came too slowly.")
                yield chunk

        def close(self) -> None:
            self._stream.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)

    return Limited
