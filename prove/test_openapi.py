"""Every route, for every role, with made-up input: it answers what the published OpenAPI says."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import uuid4

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, BaseSchema, Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig
from schemathesis.core.failures import FailureGroup

from prove.server import Server

Operation = APIOperation[Any, Any, Any, Any]

EXAMPLES: Final = 25
SOUND_EXAMPLES: Final = 2
SEED: Final = 20261120
ALICE: Final = "alice"
PASSWORD: Final = "long enough"
# What a role's key may do; None: no key at all, an empty tuple: a key with every right.
ROLES: Final[dict[str, tuple[str, ...] | None]] = {
    "nobody": None,
    "reader": ("read",),
    "writer": ("read", "write"),
    "reviewer": ("read", "write", "review"),
    # The same, limited to one user.
    "limited": ("read", "write", "review"),
    "admin": ("read", "write", "review", "admin"),
    "owner": (),
}
CHECKED: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
)
# In a role's turn these come last, for they take away what the others find.
LAST: Final = ("DELETE /memories", "DELETE /entities/{entity_type}/{entity_id}", "POST /reset")
MESSAGES: Final = [{"role": "user", "content": "I like tea"}]
# Bodies that are right: made-up ones hardly ever pass all checks of a route.
SOUND: Final[dict[str, dict[str, Any]]] = {
    "POST /memories": {"messages": MESSAGES, "user_id": ALICE},
    "PUT /memories/{memory_id}": {"text": "I like coffee"},
    "POST /search": {"query": "what does she drink?", "filters": {"user_id": ALICE}},
    "POST /api/v1/memories": {"content": "I like tea", "user_id": ALICE},
    "PUT /api/v1/memories/{memory_id}": {"content": "I like coffee"},
    "POST /api/v1/memories/search": {"query": "like", "user_id": ALICE},
    "POST /api/v1/memories/delete_bulk": {"user_id": ALICE, "review_status": "unreviewed"},
    "POST /configure": {"custom_instructions": "Be brief."},
    "POST /auth/login": {"email": "owner@example.org", "password": PASSWORD},
    "POST /auth/change-password": {"current_password": PASSWORD, "new_password": PASSWORD},
    "PATCH /auth/me": {"name": "Owner", "email": "owner@example.org"},
}
HOSTILE: Final = {
    "a NUL": b'{"query": "a\\u0000b", "content": "\\u0000"}',
    "a lone surrogate": b'{"query": "\\ud800", "content": "\\ud800"}',
    "no UTF-8": b'{"query": "\xff\xfe"}',
    "no JSON": b"{'query': NaN}",
    "100 levels": b'{"a":' * 100 + b"1" + b"}" * 100,
    "100000 levels": b"[" * 100_000,
    "no object": b'["\xf0\x9f\x92\xa9"]',
}
LARGE: Final = b'{"query": "' + b"x" * 10 * 2**20 + b'"}'
# Credentials are no part of what is made up: a role has its own, or none.
GENERATION: Final = GenerationConfig(with_security_parameters=False)


class Caller:
    """Sends made-up requests with one credential, and checks the answers."""

    addresses = itertools.count(1)

    def __init__(self, server: Server, key: str | None) -> None:
        self.url = server.url
        self.credential = {"X-API-Key": key} if key else {}
        self.session = requests.Session()
        self.session.trust_env = False
        self.statuses: dict[str, set[int]] = {}

    def __call__(self, case: Case) -> None:
        """AssertionError, or a group of failures that says how to repeat it."""
        response = case.call(
            self.url, self.session, self.headers(), timeout=30, allow_redirects=False
        )
        # Other methods are tried on an operation's address as well.
        self.statuses.setdefault(f"{case.method} {case.path}", set()).add(response.status_code)
        checks = [CHECKS.get_one(name) for name in CHECKED]
        case.validate_response(response, checks)

    def headers(self) -> dict[str, str]:
        """The credential, and an address of its own, as a proxy tells it: the limits of /auth
        would soon refuse whatever else came from one."""
        number = next(self.addresses)
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        return {**self.credential, "X-Forwarded-For": address}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this module's own, where this machine is a proxy."""
    environment = {"TRUSTED_PROXIES": "127.0.0.1", "RATE_LIMIT_AUTH_FAILURES": "0"}
    made = Server(tmp_path_factory.mktemp("openapi") / "data", environment)
    try:
        made.start()
        made.bootstrap()
        yield made
        made.stop()
        errors = [entry["message"] for entry in made.logged("error", "critical")]
        assert errors == []
    finally:
        made.kill9()


@pytest.fixture
def document(server: Server) -> BaseSchema:
    """The published document; it keeps count of the methods that were tried for each path."""
    load_all_checks()
    projects = ProjectsConfig(default=ProjectConfig(generation=GENERATION))
    config = schemathesis.Config(projects=projects, seed=SEED)
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=config)


def operations(document: BaseSchema) -> list[Operation]:
    """All of them, those that delete much at the end."""
    found = [result.ok() for result in document.get_all_operations()]
    return sorted(found, key=lambda one: LAST.index(one.label) if one.label in LAST else -1)


def key_made_by(caller: Caller) -> str:
    """The id of a key that the caller may end, or of none where it may make none."""
    sent = {"json": {"label": "x"}, "headers": caller.headers(), "timeout": 30}
    made = caller.session.post(f"{caller.url}/api-keys", **sent)
    return str(made.json()["id"] if made.status_code == 201 else uuid4())


def end_key_of(caller: Caller) -> None:
    """Ends the caller's key with all that it made: an account may have 50 only."""
    if not caller.credential:
        return
    url = f"{caller.url}/api-keys"
    rows = caller.session.get(url, headers=caller.headers(), timeout=30).json()
    oldest = rows[-1]["id"]
    caller.session.delete(f"{url}/{oldest}", headers=caller.headers(), timeout=30)


def sound(server: Server, label: str, key_id: str) -> Callable[[Case, bool], Case]:
    """Puts what there is into a made-up request: `put(case, whole)`, `whole` with nothing made up
    left in the body."""
    client = server.client()
    # A made-up request before this one may have given the owner another address.
    client.request("PATCH", "/auth/me", json=SOUND["PATCH /auth/me"]).raise_for_status()
    [row] = client.add(f"I like {uuid4()}", user_id=ALICE, metadata={"source": "chat", "hash": 5})
    known = {
        "memory_id": row["id"],
        "key_id": key_id,
        "entity_type": "user",
        "entity_id": ALICE,
    }
    body = SOUND.get(label, {})
    if label == "POST /auth/refresh":
        login = {"email": "owner@example.org", "password": PASSWORD}
        tokens = client.request("POST", "/auth/login", json=login).raise_for_status().json()
        body = {"refresh_token": tokens["refresh_token"]}
    client.close()

    def put(case: Case, whole: bool) -> Case:
        for name in case.path_parameters or {}:
            case.path_parameters[name] = known[name]
        if isinstance(case.body, dict):
            case.body = {**({} if whole and body else case.body), **body}
        elif case.path_parameters == {} and case.method in ("GET", "DELETE"):
            case.query = {**({} if whole else case.query), "user_id": ALICE}
        return case

    return put


@pytest.mark.parametrize("role", ROLES)
def test_every_route_answers_what_is_published(
    server: Server, document: BaseSchema, role: str
) -> None:
    scopes, which = ROLES[role], list(ROLES).index(role)
    limit = {"user_id": [ALICE]} if role == "limited" else {}
    caller = Caller(server, None if scopes is None else server.make_key(*scopes, **limit))
    key_id = key_made_by(caller)
    wrong = [
        f"{operation.label}: {problem}"
        for operation in operations(document)
        if (problem := problem_of(operation, caller, sound(server, operation.label, key_id), which))
    ]
    end_key_of(caller)
    assert not wrong, "\n\n".join(wrong)
    # The proof would prove little if all had been refused.
    if role == "owner":
        labels = {operation.label for operation in operations(document)}
        fine = {label for label in labels if caller.statuses[label] & {200, 201}}
        # Set-up is over; the roles before may have used up the guesses at the present password; and
        # there is no LLM to write instructions.
        refused = {"POST /auth/register", "POST /auth/change-password"}
        refused.add("POST /generate-instructions")
        assert labels - fine <= refused


def problem_of(
    operation: Operation, caller: Caller, put: Callable[[Case, bool], Case], which: int
) -> str:
    """What is wrong with the answers: to what stands at the limits of the document, and to a
    number of random requests, the same ones in every run; `which` of their series it is."""
    fits = operation.as_strategy(GenerationMode.POSITIVE)
    sound_ones = st.builds(put, operation.as_strategy(GenerationMode.POSITIVE), st.just(True))
    known = st.builds(put, operation.as_strategy(GenerationMode.POSITIVE), st.booleans())
    any_ones = st.one_of(known, fits, operation.as_strategy(GenerationMode.NEGATIVE))

    def conform(cases: st.SearchStrategy[Case], count: int) -> None:
        @seed(SEED + which)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases)
        def conforms(case: Case) -> None:
            caller(case)

        conforms()

    modes = list(GenerationMode)
    limits = operation.schema.iter_coverage_cases(
        operation, generation_modes=modes, generation_config=GENERATION
    )
    try:
        # What is drawn at random may be sound, or not: some of it is for certain.
        conform(sound_ones, SOUND_EXAMPLES)
        for case in limits:
            caller(case)
        conform(any_ones, EXAMPLES)
    except (FailureGroup, requests.RequestException) as error:  # every operation gets its turn
        return str(error)
    return ""


def test_what_no_body_can_be_is_refused_by_every_route(
    server: Server, document: BaseSchema
) -> None:
    caller = Caller(server, server.key)
    wrong = []
    paths = {"memory_id": str(uuid4()), "key_id": str(uuid4())}
    with_body = [operation for operation in operations(document) if len(operation.body)]
    assert len(with_body) >= len(SOUND)
    for operation in with_body:
        url = server.url + operation.path.format(**paths)
        for what, body in {**HOSTILE, "10 MB": LARGE}.items():
            headers = {**caller.headers(), "Content-Type": "application/json"}
            answer = caller.session.request(
                operation.method, url, data=body, headers=headers, timeout=30
            )
            expected = {413} if body is LARGE else {400, 404, 422}
            if answer.status_code not in expected or not answer.json()["detail"]:
                wrong.append(f"{operation.label}, {what}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)
