"""The page Connect, and what agents and Claude Code fetch before they have a credential."""

import gzip
import io
import time
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from accounts.web import PageRequest, page
from core.errors import InvalidInputError
from core.http.public import base_url, is_public
from core.pages.partial import is_partial
from dashboard.connect import git, plugin
from dashboard.connect.clients import BY_ID, CLIENTS
from dashboard.connect.guides import guides
from dashboard.connect.packs import PACKS, instructions
from dashboard.connect.states import ClientState, client_states

POLL_SECONDS: Final = 3
# In the session: when the snippet of a client was copied, by the client's id, in seconds.
_COPIED: Final = "copied_snippets"
# So long a client is waited for.
PATIENCE_SECONDS: Final = 3600
_MOST_GIT_BYTES: Final = 64 * 1024


@require_safe
@page
def connect(request: PageRequest) -> HttpResponse:
    """How each client connects, and which ones have; htmx gets the states alone."""
    context = _states_context(request)
    if is_partial(request):
        return render(request, "dashboard/connect/_states.html", context)
    base = base_url(request)
    written = guides(base)
    context |= {
        "clients": [
            {"state": state, "guide": written[state.client.id]} for state in context["states"]
        ],
        "mcp_url": f"{base}/mcp",
        "llms_url": f"{base}/llms.txt",
        "plugin_commands": plugin.install_commands(base),
        "base": base,
        "packs": PACKS,
        "is_public": is_public(),
        "poll": POLL_SECONDS,
    }
    return render(request, "dashboard/connect/connect.html", context)


@require_POST
@page
def copied(request: PageRequest) -> HttpResponseBase:
    """Takes note that the snippet of a client was copied: from now on its first call is awaited."""
    client = request.POST.get("client", "")
    if client not in BY_ID:
        raise InvalidInputError("There is no such client on this page.")
    request.session[_COPIED] = {**_waiting(request), client: time.time()}
    if not request.htmx:
        return redirect("dashboard:connect")
    return render(request, "dashboard/connect/_states.html", _states_context(request))


def _states_context(request: PageRequest) -> dict[str, Any]:
    """The states now, and who has connected since the page was told last."""
    states = client_states(request.principal, waiting=set(_waiting(request)))
    asked = request.POST if request.method == "POST" else request.GET
    known = set(asked.getlist("connected"))
    return {"states": states, "news": [state for state in states if _is_news(state, known)]}


def _is_news(state: ClientState, known: set[str]) -> bool:
    return state.is_connected and state.client.id not in known


def _waiting(request: PageRequest) -> dict[str, float]:
    """The clients whose snippets were copied lately, by this person, in this browser."""
    now = time.time()
    kept: dict[str, float] = request.session.get(_COPIED, {})
    return {client: at for client, at in kept.items() if now - at < PATIENCE_SECONDS}


# --- For everybody --------------------------------------------------------------------------------
@require_safe
def llms(request: HttpRequest) -> HttpResponse:
    """All that a coding agent needs to set itself up, as plain text; https://llmstxt.org."""
    base = base_url(request)
    context = {
        "base": base,
        "is_public": is_public(),
        "instructions": instructions(),
        "plugin_commands": plugin.install_commands(base),
        "guides": [
            {"client": client, "guide": guides(base)[client.id]}
            for client in CLIENTS
            if client.id != "curl"
        ],
    }
    return render(request, "dashboard/connect/llms.txt", context, "text/plain; charset=utf-8")


@require_safe
def marketplace(request: HttpRequest) -> HttpResponse:
    """The manifest that `claude plugin marketplace add` takes."""
    return JsonResponse(plugin.marketplace(base_url(request)))


@require_safe
def install_script(request: HttpRequest) -> HttpResponse:
    """Installs the plugin: `curl -fsSL … | sh`."""
    script = plugin.install_script(base_url(request))
    return HttpResponse(script, "text/x-shellscript; charset=utf-8")


@require_safe
def git_refs(request: HttpRequest) -> HttpResponse:
    """Where a clone of the plugin begins."""
    if request.GET.get("service") != "git-upload-pack":
        return HttpResponseBadRequest("Only git clone and git fetch are answered.", "text/plain")
    repo = plugin.plugin_repository(base_url(request))
    return _git(git.advertise(repo), "advertisement")


@require_POST
def git_pack(request: HttpRequest) -> HttpResponse:
    """The plugin, as git fetches it."""
    try:
        answer = git.upload_pack(plugin.plugin_repository(base_url(request)), _git_body(request))
    except git.BrokenRequestError as error:
        return HttpResponseBadRequest(str(error), "text/plain")
    return _git(answer, "result")


def _git_body(request: HttpRequest) -> bytes:
    """The body, which git compresses once it is long; BrokenRequestError."""
    if request.headers.get("Content-Encoding") != "gzip":
        return request.body
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(request.body)) as compressed:
            body = compressed.read(_MOST_GIT_BYTES + 1)
    except (OSError, EOFError) as error:
        raise git.BrokenRequestError("The body is not compressed as it says.") from error
    if len(body) > _MOST_GIT_BYTES:
        raise git.BrokenRequestError("The request is too long.")
    return body


def _git(body: bytes, kind: str) -> HttpResponse:
    answer = HttpResponse(body, f"application/x-git-upload-pack-{kind}")
    answer.headers["Cache-Control"] = "no-cache"
    return answer
