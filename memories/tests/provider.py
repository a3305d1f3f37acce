"""A model provider on 127.0.0.1 for tests, over real HTTP, that can be told to misbehave.

    with Provider() as provider:
        provider.url                                    # base URL of an OpenAI client
        provider.chat.fail(429, retry_after=2, times=1) # the next call; without `times` all calls
        provider.embeddings.wrong_dims(7)
        provider.chat.count, provider.chat.requests[-1].body
        provider.heal()

`python -m memories.tests.provider --port N` runs it as a process, which POST /_control steers.
"""

import argparse
import contextlib
import email.utils
import gzip
import json
import os
import random
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self
from urllib.parse import parse_qsl

import numpy as np

from memories.tests import provider_wire as wire
from memories.tests.provider_faults import (
    KEPT_REQUESTS,
    Body,
    Chat,
    Embeddings,
    Fault,
    Part,
    Request,
    sent_value,
)

DIMS: Final = 1536


class Provider:
    """The server. With an `api_key` every call must bring it."""

    def __init__(
        self, *, dims: int = DIMS, api_key: str = "", host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.dims = dims
        self.api_key = api_key
        self.models = [wire.CHAT_MODEL, wire.EMBEDDING_MODEL]
        self.chat = Chat()
        self.embeddings = Embeddings()
        self.listing = Part()
        # Every request in its order, also those that were refused or lead nowhere.
        self.requests: deque[Request] = deque(maxlen=KEPT_REQUESTS)
        self._server = _Server((host, port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.005,))
        self._thread.daemon = True

    @property
    def origin(self) -> str:
        """Base URL for clients of Anthropic, Ollama and Gemini."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def url(self) -> str:
        """Base URL for OpenAI's clients."""
        return f"{self.origin}/v1"

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends the server; calls that hang are let go."""
        self.heal()
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def parts(self) -> dict[str, Part]:
        return {"chat": self.chat, "embeddings": self.embeddings, "listing": self.listing}

    def heal(self) -> None:
        """Ends all misbehaviour."""
        for part in self.parts.values():
            part.heal()

    def reset_counts(self) -> None:
        """Forgets the calls so far."""
        self.requests.clear()
        for part in self.parts.values():
            with part.lock:
                part.requests.clear()
                part.count = part.texts = 0
                part.max_in_flight = part.in_flight

    def vector(self, text: str, dims: int | None = None) -> Any:
        """The vector it gives to `text`."""
        return wire.embed(text, dims or self.dims)

    def control(self, order: Body) -> Body:
        """Does `{"part": "chat", "do": "fail", "with": {…}}`, or "heal" or "reset_counts"."""
        name = order.get("do")
        if name in {"heal", "reset_counts"}:
            getattr(self, name)()
        elif name:
            part = self.parts[order["part"]]
            if name.startswith("_") or name in {"take", "enter", "leave"}:
                raise KeyError(name)
            getattr(part, name)(**order.get("with", {}))
        names = ("count", "texts", "in_flight", "max_in_flight")
        return {key: {n: getattr(part, n) for n in names} for key, part in self.parts.items()}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], provider: Provider) -> None:
        self.provider = provider
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Ends the connections that clients keep open: who was stopped answers nobody."""
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that give up are part of the game.
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "stub"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        provider = self.server.provider
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            body = None
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, path, headers, body, time.time(), dict(parse_qsl(query)))
        if path == "/_control":
            try:
                return self._send(200, provider.control(body or {}))
            except (KeyError, TypeError, AttributeError) as error:
                return self._send(400, {"error": repr(error)})
        provider.requests.append(request)
        found = wire.route(self.command, path, headers)
        if found is None:
            return self._send(404, wire.OpenAI().error(404, f"Invalid URL ({path})"))
        dialect, action = found
        sent = dialect.key(headers)
        if provider.api_key and sent != provider.api_key:
            # With the key in it, as careless servers answer: it must not travel on.
            message = f"Incorrect API key provided: {sent}."
            return self._send(401, dialect.error(401, message, code="invalid_api_key"))
        if not isinstance(body, dict):
            return self._send(400, dialect.error(400, "We could not parse the JSON body."))
        part = provider.parts.get(action, provider.listing)
        part.enter(request)
        try:
            self._answer(dialect, action, part, request)
        finally:
            part.leave()

    def _answer(self, dialect: wire.OpenAI, action: str, part: Part, request: Request) -> None:
        body: Body = request.body
        if delay := part.take("delay", body):
            delay.entered.set()
            delay.released.wait(delay.options.get("seconds"))
        if refusal := part.take("refusal", body):
            return self._send(400, _refused(dialect, refusal, body))
        ending = part.take("ending", body)
        options = ending.options if ending else {}
        match ending.name if ending else "":
            case "fail":
                error = dialect.error(options["status"], options["message"], code=options["code"])
                return self._send(options["status"], error, _retry_after(options))
            case "redirect":
                return self._send(options["status"], {}, {"Location": options["location"]})
            case "drip":
                return self._drip(ending)
            case "raw":
                kind = {"Content-Type": options["content_type"]}
                return self._send_bytes(200, options["data"].encode(), kind)
        try:
            data = json.dumps(self._content(dialect, action, part, request)).encode()
        except wire.BadRequestError as refused:
            error = dialect.error(400, refused.message, param=refused.param, code=refused.code)
            return self._send(400, error)
        if ending and ending.name == "reset":
            return self._reset(data)
        if ending and ending.name == "pack":
            return self._send_bytes(200, gzip.compress(data), {"Content-Encoding": "gzip"})
        self._send_bytes(200, data[: len(data) // 2] if ending else data)

    def _content(self, dialect: wire.OpenAI, action: str, part: Part, request: Request) -> Any:
        provider, body = self.server.provider, request.body
        if action == "chat":
            chat = dialect.chat(body)
            content = part.take("content", body)
            text = content.options["content"] if content else wire.think(chat)
            if text is not None and (dress := part.take("dress", body)):
                text = dress.options["before"] + text + dress.options["after"]
            return dialect.answer(text, chat, part.count)
        if action == "embeddings":
            asked = dialect.embed(body)
            with part.lock:
                part.texts += len(asked.texts)
            fault = part.take("vectors", body)
            return dialect.vectors(_vectors(asked, asked.dims or provider.dims, fault), asked)
        if isinstance(dialect, wire.Ollama) and action != "listing":
            return dialect.show(provider.dims) if action == "show" else {"status": "success"}
        return dialect.models(provider.models[: dialect.page(request.query)])

    def _drip(self, fault: Fault | None) -> None:
        assert fault is not None
        self._head(200, 2**40, {})
        self.end_headers()
        self.close_connection = True
        while not fault.released.wait(fault.options["pause"]):
            self.wfile.write(b" " * fault.options["size"])
            self.wfile.flush()

    def _reset(self, data: bytes) -> None:
        self._head(200, len(data), {})
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        time.sleep(0.05)  # so that the client has read what there is
        # Lingering for no time turns the end of the connection into a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True

    def _send(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send_bytes(status, json.dumps(content).encode(), headers)

    def _send_bytes(
        self, status: int, data: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self._head(status, len(data), headers or {})
        self.end_headers()
        self.wfile.write(data)

    def _head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        content = {"Content-Type": "application/json", "Content-Length": str(length)}
        for name, value in (content | dict(headers)).items():
            self.send_header(name, value)


def _vectors(asked: wire.Embed, dims: int, fault: Fault | None) -> list[tuple[int, Any]]:
    name, options = (fault.name, fault.options) if fault else ("", {})
    dims = options.get("dims", dims)
    rows = [(index, wire.embed(text, dims)) for index, text in enumerate(asked.texts)]
    match name:
        case "not_a_number":
            for _, vector in rows:
                vector[0] = options["value"]
        case "zeros":
            rows = [(index, np.zeros_like(vector)) for index, vector in rows]
        case "too_few":
            rows = rows[: -options["missing"]]
        case "shuffle":
            random.Random(len(rows)).shuffle(rows)
            if len(rows) > 1 and rows[0][0] == 0:
                rows.reverse()
    return rows


def _refused(dialect: wire.OpenAI, refusal: Fault, body: Body) -> Any:
    param = refusal.options["param"]
    said = {
        "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. "
        "Use 'max_completion_tokens' instead.",
        "temperature": f"Unsupported value: 'temperature' does not support "
        f"{sent_value(body, param)} with this model. Only the default (1) value is supported.",
    }.get(param, f"Unsupported parameter: '{param}' is not supported with this model.")
    code = "unsupported_value" if param == "temperature" else "unsupported_parameter"
    return dialect.error(400, refusal.options["message"] or said, param=param, code=code)


def _retry_after(options: Body) -> dict[str, str]:
    seconds = options["retry_after"]
    if seconds is None:
        return {}
    if options["as_date"]:
        return {"Retry-After": email.utils.formatdate(time.time() + seconds, usegmt=True)}
    return {"Retry-After": f"{seconds:g}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dims", type=int, default=DIMS)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--chat-seconds", type=float, default=0, help="latency of the LLM")
    parser.add_argument("--embed-seconds", type=float, default=0, help="latency of the embedder")
    given = parser.parse_args()
    provider = Provider(
        dims=given.dims, api_key=given.api_key, host=given.host, port=given.port
    ).start()
    for part, seconds in (
        (provider.chat, given.chat_seconds),
        (provider.embeddings, given.embed_seconds),
    ):
        if seconds:
            part.slow(seconds)
    sys.stdout.write(f"{provider.url}\n")
    sys.stdout.flush()
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        provider.stop()


if __name__ == "__main__":
    main()
