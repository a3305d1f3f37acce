"""Whom views may wait for: every view of the URLconf is marked, and the marks are true."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, resolve, reverse

from core.http.threads import reading, threads_for, writing
from core.http.waiting import IncomingRequest, ProviderWait, rule_of, waits_of
from memories.engine.engine import Engine

pytestmark = pytest.mark.one_form

# What asks no provider, whatever it is sent. A view that is new has to be marked, or stand here.
ASKS_NOBODY = frozenset(
    {
        *("root", "openapi", "docs"),
        *("login", "logout", "start", "administrator", "key", "finish"),
        *("overview", "theme", "settings", "late-interaction", "late-interaction-remove"),
        "time-zone",
        *("connect", "connect-copied", "llms", "claude-code", "claude-code-install"),
        *("claude-code-refs", "claude-code-pack"),
        *("connected-apps", "app-revoke"),
        *("activity", "activity-export", "requests-page", "entities", "entity-delete"),
        *("filters", "memories-export", "bulk-plan", "bulk-run"),
        *("jobs", "retry-failed", "job-retry", "job-run", "job-cancel", "schedule-run"),
        *("operations", "operation", "operation-undo", "operation-cancel"),
        *("memory-delete", "memory-restore", "memory-review", "memory-confidence"),
        *("memory-expiry", "views", "view-save", "view-rename", "view-delete"),
        *("auth-setup-status", "auth-register", "auth-login", "auth-refresh", "auth-me"),
        *("auth-change-password", "auth-onboarding-complete", "api-keys", "api-key", "requests"),
        *("oss-history", "oss-entities", "oss-entity", "oss-providers", "oss-reset"),
        *("memserv-bulk", "memserv-history", "memserv-slash", "memserv-slash-below"),
    }
)
# The methods of the others that ask: (route, method).
MARKED = {
    ("healthz", "GET"),
    ("metrics", "GET"),
    ("oss-memories", "POST"),
    ("oss-memory", "PUT"),
    ("oss-search", "POST"),
    ("oss-configure", "POST"),
    ("oss-generate-instructions", "POST"),
    ("memserv-memories", "POST"),
    ("memserv-search", "POST"),
    ("memserv-memory", "PUT"),
    *((name, "page") for name in ("browse", "memory-add", "memory-edit", "memory-undo")),
    ("authorize", "page"),
    *((name, "page") for name in ("provider", "use-case", "test")),
}


def routes() -> Iterator[URLPattern]:
    """Every route of ours."""
    waiting: list[Any] = list(get_resolver().url_patterns)
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, URLResolver):
            waiting.extend(entry.url_patterns)
        else:
            yield entry


class Match:
    """What `waits_of` asks of a ResolverMatch."""

    def __init__(self, func: Any) -> None:
        self.func = func


def marks_of(route: URLPattern) -> set[tuple[str, str]]:
    class_ = getattr(route.callback, "cls", None)
    methods = ("GET", "POST", "PUT", "PATCH", "DELETE") if class_ else ("page",)
    match: Any = Match(route.callback)
    return {
        (str(route.name), method)
        for method in methods
        if rule_of(match, method) != ProviderWait.NOBODY
    }


def test_every_view_is_marked_or_known_to_ask_nobody() -> None:
    marked = set()
    for route in routes():
        found = marks_of(route)
        if route.name in ASKS_NOBODY:
            assert not found, route.name
        else:
            assert found, f"{route.name}: mark it with waits_for, or say that it asks nobody"
        marked |= found
    assert marked == MARKED


JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
TURNS = [{"role": "user", "content": "I drink tea"}]
# route, method, what is sent, and whom it may wait for.
CALLS: list[tuple[str, str, Any, ProviderWait]] = [
    ("/memories", "POST", {"messages": TURNS, "user_id": "ann"}, ProviderWait.LLM),
    ("/memories", "POST", {"messages": TURNS, "user_id": "ann", "infer": None}, ProviderWait.LLM),
    (
        "/memories",
        "POST",
        {"messages": TURNS, "user_id": "a", "metadata": {"infer": 0}},
        ProviderWait.LLM,
    ),
    (
        "/memories",
        "POST",
        {"messages": TURNS, "user_id": "a", "infer": False},
        ProviderWait.EMBEDDER,
    ),
    (
        "/memories",
        "POST",
        {"messages": TURNS, "user_id": "b", "infer": "off"},
        ProviderWait.EMBEDDER,
    ),
    ("/memories/{id}", "PUT", {"text": "I drink coffee"}, ProviderWait.EMBEDDER),
    ("/memories/{id}", "PUT", {"metadata": {"k": 1}}, ProviderWait.NOBODY),
    ("/memories/{id}", "GET", None, ProviderWait.NOBODY),
    ("/memories/{id}", "DELETE", None, ProviderWait.NOBODY),
    ("/search", "POST", {"query": "drinks", "user_id": "alice"}, ProviderWait.QUERY),
    ("/generate-instructions", "POST", {"use_case": "notes"}, ProviderWait.LLM),
    ("/configure", "POST", {"custom_instructions": "Only drinks."}, ProviderWait.PROVIDERS),
    ("/api/v1/memories", "POST", {"content": "I drink rum", "user_id": "a"}, ProviderWait.LLM),
    ("/api/v1/memories/{id}", "PUT", {"content": "I drink juice"}, ProviderWait.EMBEDDER),
    (
        "/api/v1/memories/search",
        "POST",
        {"query": "drinks", "user_id": "alice"},
        ProviderWait.QUERY,
    ),
    (
        "/api/v1/memories/search",
        "POST",
        {"query": "drink", "mode": "keyword", "user_id": "alice"},
        ProviderWait.NOBODY,
    ),
    ("/dashboard/memories", "GET", None, ProviderWait.NOBODY),
    ("/dashboard/memories?q=drinks", "GET", None, ProviderWait.QUERY),
    ("/dashboard/memories?q=drinks&id={id}", "GET", None, ProviderWait.QUERY),
    ("/dashboard/memories?q=drinks&mode=words", "GET", None, ProviderWait.NOBODY),
    ("/dashboard/memories/filters?q=drinks", "GET", None, ProviderWait.NOBODY),
    ("/dashboard/memories/add", "GET", None, ProviderWait.NOBODY),
    ("/dashboard/memories/add", "POST", "text=Tea&user_id=a&how=verbatim", ProviderWait.EMBEDDER),
    ("/dashboard/memories/add", "POST", "text=Tea&user_id=a&how=extracted", ProviderWait.LLM),
    ("/dashboard/memories/{id}/edit", "GET", None, ProviderWait.NOBODY),
    (
        "/dashboard/memories/{id}/edit",
        "POST",
        "text=Another&metadata={{}}&rev=1&step=save",
        ProviderWait.EMBEDDER,
    ),
]


class Recorder:
    """An embedder and an LLM that tell whether they were asked."""

    model_key, dims = "test/words-1", 64

    def __init__(self, embedder: Any) -> None:
        self._embedder, self.asked = embedder, set()

    def embed(self, texts: Any) -> Any:
        self.asked.add("embedder")
        return self._embedder.embed(texts)

    def generate_response(self, messages: Any, *args: Any, **options: Any) -> str:
        self.asked.add("llm")
        return '{"memory": [{"text": "Drinks"}], "custom_instructions": "a", "test_message": "b"}'


MAY_ASK = {
    ProviderWait.NOBODY: set(),
    ProviderWait.QUERY: {"embedder"},
    ProviderWait.EMBEDDER: {"embedder"},
    ProviderWait.LLM: {"embedder", "llm"},
    ProviderWait.PROVIDERS: {"embedder", "llm"},
}


@pytest.mark.parametrize(("path", "method", "sent", "waits"), CALLS, ids=range(len(CALLS)))
def test_a_request_asks_nobody_but_whom_it_may_wait_for(
    api: Any,
    engine: Any,
    embedder: Any,
    alice: Any,
    path: str,
    method: str,
    sent: Any,
    waits: ProviderWait,
) -> None:
    memory_id = api.add("I drink water")
    recorder = Recorder(embedder)
    engine.engine = Engine(recorder, recorder)
    address, _, query = path.format(id=memory_id).partition("?")
    client = Client()
    client.force_login(alice)
    headers = {} if address.startswith("/dashboard") else api.headers
    form = sent.format() if isinstance(sent, str) else None
    answer = client.generic(
        method,
        path.format(id=memory_id),
        form or (client._encode_json(sent, JSON) if sent else ""),
        content_type=FORM if form else JSON,
        headers=headers,
    )
    assert answer.status_code in {200, 302}, answer.content[:500]
    body = (form or (client._encode_json(sent, JSON) if sent else "")).encode()
    assert (
        waits_of(resolve(address), method, IncomingRequest(method, query.encode(), body)) == waits
    )
    assert recorder.asked <= MAY_ASK[waits]
    if waits in {ProviderWait.QUERY, ProviderWait.EMBEDDER}:
        assert recorder.asked, "marked, and asks nobody"


@pytest.mark.parametrize(
    "body",
    [
        b'{"infer": false, "messages": [',
        b"[]",
        b"null",
        b"",
        b'{"infer": [false]}',
        b'{"in\\u0066er": false, "user_id": "a"}',
    ],
)
def test_whatever_comes_as_a_body_says_whom_it_waits_for(body: bytes) -> None:
    match = resolve(reverse("oss-memories"))
    assert waits_of(match, "POST", IncomingRequest("POST", b"", body)) in {
        ProviderWait.EMBEDDER,
        ProviderWait.LLM,
    }
    if b"u0066" in body:
        assert waits_of(match, "POST", IncomingRequest("POST", b"", body)) is ProviderWait.EMBEDDER


@pytest.mark.parametrize(
    "form",
    [
        "how=verbatim&how=extracted&text=Tea",
        '--x\r\nContent-Disposition: form-data; name="how"\r\n\r\nextracted\r\n--x--\r\n',
    ],
)
def test_a_form_that_wants_the_llm_in_any_way_waits_for_it(form: str) -> None:
    match = resolve("/dashboard/memories/add")
    assert waits_of(match, "POST", IncomingRequest("POST", b"", form.encode())) is ProviderWait.LLM


def test_an_add_without_a_message_waits_for_nobody() -> None:
    body = b'{"messages": [], "user_id": "a"}'
    assert (
        waits_of(resolve("/memories"), "POST", IncomingRequest("POST", b"", body))
        is ProviderWait.NOBODY
    )


def test_reads_and_writes_that_ask_nobody_have_threads_apart() -> None:
    assert (
        threads_for(ProviderWait.NOBODY, "GET")
        is threads_for(ProviderWait.NOBODY, "HEAD")
        is reading
    )
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert threads_for(ProviderWait.NOBODY, method) is writing
    others = {id(threads_for(waits, "POST")) for waits in ProviderWait}
    assert len(others) == len(ProviderWait)
    assert id(reading) not in others
