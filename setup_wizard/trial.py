"""The last step: one memory is added and found through the public API, and removed again."""

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.http.response import HttpResponseBase
from django.shortcuts import resolve_url
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from accounts.services import complete_setup
from accounts.web import redirect_browser
from apikeys.services import create_api_key, revoke_api_key
from core import outbound
from core.http.waiting import ProviderWait, waits_for, waits_when_posted
from core.principal import Scope
from memories.editing import service as editing
from setup_wizard.forms import TrialForm
from setup_wizard.models import Progress
from setup_wizard.presets import PRESETS
from setup_wizard.steps import (
    StepRequest,
    may_enter,
    next_step,
    record_step,
    render_step,
    requires_open_setup,
    requires_step,
    url_of,
)

KEY_MINUTES: Final = 10
SHOWN_CHARS: Final = 4000


@dataclass(frozen=True, slots=True)
class TrialCall:
    """A request as it was made, and its answer; `status` is 0 where none came, `problem` what is
    wrong in a sentence."""

    method: str
    path: str
    sent: str
    status: int
    ms: float
    got: str
    answer: Mapping[str, Any]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The result of the test, in words; `found` is the memory that was found."""

    ok: bool
    title: str
    detail: str
    calls: tuple[TrialCall, ...]
    found: str = ""


@waits_for(waits_when_posted(ProviderWait.PROVIDERS))
@requires_open_setup
@require_http_methods(["GET", "HEAD", "POST"])
@requires_step
def trial(request: StepRequest) -> HttpResponseBase:
    """The test: what it will send, and its result."""
    progress = request.progress
    if not may_enter("test", progress):
        return redirect_browser(request, url_of(next_step(progress)))
    if request.method != "POST":
        preset = PRESETS.get(progress.preset, PRESETS["other"])
        message = progress.test_message or preset.message
        # To what the LLM wrote no question is known; its own words find it whatever the embedder.
        question = preset.question if message == preset.message else message[:1000]
        initial = {"message": message, "question": question}
        return render_step(request, "test", form=TrialForm(initial=initial), result=None)
    form = TrialForm(request.POST)
    if not form.is_valid():
        return render_step(request, "test", form=form, result=None, status=422)
    result = _tested(request, form.cleaned_data["message"], form.cleaned_data["question"])
    return render_step(request, "test", form=form, result=result)


@requires_open_setup
@require_POST
@requires_step
def finish(request: StepRequest) -> HttpResponseBase:
    """Completes set-up. It cannot be opened again."""
    if not may_enter("test", request.progress):
        return redirect_browser(request, url_of(next_step(request.progress)))
    with transaction.atomic():
        record_step(request, "test")
        complete_setup(actor=request.principal.actor)
        Progress.objects.all().delete()
    messages.success(request, "mem0dash is set up. What your agents store appears here.")
    return redirect_browser(request, resolve_url(settings.LOGIN_REDIRECT_URL))


def _tested(request: StepRequest, message: str, question: str) -> TrialResult:
    """Adds, finds and removes one memory, as any client would."""
    user_id = f"setup-test-{secrets.token_hex(4)}"
    with _short_key(request, user_id) as key:
        return _run(_Api(request, key), user_id, message, question)


def _run(api: "_Api", user_id: str, message: str, question: str) -> TrialResult:
    add_call = api.call(
        "POST",
        "/memories",
        {"messages": [{"role": "user", "content": message}], "user_id": user_id},
    )
    if add_call.problem:
        return TrialResult(False, "The memory could not be added", add_call.problem, (add_call,))
    memories = add_call.answer.get("results") or []
    if not memories:
        return TrialResult(
            False,
            "The model found nothing worth keeping",
            "It read the message and stored nothing of it. Try one with a fact in it, or go back "
            "and look at the instructions.",
            (add_call,),
        )
    search_call = api.call("POST", "/search", {"query": question, "filters": {"user_id": user_id}})
    removed = [api.call("DELETE", f"/memories/{row['id']}") for row in memories]
    calls = (add_call, search_call, *removed)
    if search_call.problem:
        return TrialResult(
            False, "The memory could not be searched for", search_call.problem, calls
        )
    ids = {row["id"] for row in memories}
    memory = next(
        (row for row in search_call.answer.get("results") or [] if row["id"] in ids), None
    )
    if memory is None:
        return TrialResult(
            False,
            "It was added, but that question did not find it",
            "Ask something that the sentence answers.",
            calls,
        )
    for call in removed:
        if call.problem:
            return TrialResult(False, "The memory could not be removed", call.problem, calls)
    ms = add_call.ms + search_call.ms
    return TrialResult(
        True, "Added, found and removed", f"Both took {ms:,.0f} ms.", calls, memory["memory"]
    )


@contextmanager
def _short_key(request: StepRequest, user_id: str) -> Iterator[str]:
    """A key that reaches one user for ten minutes, and is ended before that. Nothing of what it
    added stays, nor what it failed to add."""
    row, key = create_api_key(
        owner=request.account,
        maker=request.principal,
        project=request.project,
        label="Set-up test",
        scopes=(Scope.READ, Scope.WRITE),
        expires_at=timezone.now() + timedelta(minutes=KEY_MINUTES),
        entity_limit={"user_id": [user_id]},
        actor=request.principal.actor,
    )
    try:
        yield key
    finally:
        revoke_api_key(key_id=row.id, owner=request.account, actor=request.principal.actor)
        editing.erase_added_with(request.principal, key_id=row.id)


class _Api:
    """The public API of this server, over its own socket: a proxy before it may not be reachable
    from here."""

    def __init__(self, request: StepRequest, key: str) -> None:
        host, port = request.META["SERVER_NAME"], request.META["SERVER_PORT"]
        self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._key = key

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> TrialCall:
        started = time.perf_counter()
        status, text = outbound.call(
            method,
            self._url + path,
            headers={"X-API-Key": self._key},
            json=body,
            # As long as an add may wait for an LLM, its fallback and the embedder.
            timeout=settings.CLAIM_LEASE_SECONDS,
        )
        ms = (time.perf_counter() - started) * 1000
        answer = _json(text)
        request_text = _pretty(body) if body else ""
        got = _pretty(answer)[:SHOWN_CHARS] if answer else text[:SHOWN_CHARS]
        return TrialCall(
            method, path, request_text, status, ms, got, answer, _problem(status, answer, text)
        )


def _problem(status: int, answer: Mapping[str, Any], text: str) -> str:
    if status == 0:
        return f"The server could not reach itself: {text}"
    if status < 400:
        return ""
    detail = answer.get("detail")
    return detail if isinstance(detail, str) else f"The server answered with status {status}."


def _json(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _pretty(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
