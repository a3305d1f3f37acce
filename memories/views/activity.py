"""The page that tells who did what: to memories, and to keys, people and settings."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final, cast
from uuid import UUID

from django import forms
from django.conf import settings
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.module_loading import import_string
from django.views.decorators.http import require_safe

from accounts.audit import KINDS, AuditAction
from accounts.web import PageRequest, page
from core.errors import InvalidInputError
from core.pages.forms import DayField, FilterForm
from core.pages.tabular import download
from core.principal import Principal, Scope
from memories.browse.activity import (
    ActivityFilter,
    ActivityKey,
    AuditDeed,
    MemoryEntry,
    export,
    list_entries,
    list_people,
    position_of,
)
from memories.views import deeds
from memories.views.browser import words

PER_PAGE: Final = 50
_VIA: Final = {
    "api_key": "with an API key",
    "oauth": "by a connected app",
    "admin_api_key": "with the admin key",
    "session": "in the dashboard",
    "auth_disabled": "without signing in",
    "internal": "on the server",
}


class ActivityForm(FilterForm):
    """Which entries the page shows. Keys, clients and requests are for administrators."""

    kind = forms.ChoiceField(
        label="About",
        required=False,
        choices=[("", "Anything"), *deeds.KINDS.items()],
        widget=forms.Select(attrs={"class": "form-select"}),
    )
    event = forms.ChoiceField(
        label="What",
        required=False,
        choices=[
            ("", "Anything"),
            *((event, f"Memory {word.lower()}") for event, (word, _) in words.EVENTS.items()),
            *((action.value, said.name) for action, said in deeds.WORDS.items()),
        ],
        widget=forms.Select(attrs={"class": "form-select"}),
    )
    account = forms.TypedChoiceField(
        label="Who",
        required=False,
        coerce=forms.UUIDField().to_python,
        empty_value=None,
        widget=forms.Select(attrs={"class": "form-select"}),
    )
    since = DayField(label="From")
    until = DayField(label="To")
    memory = forms.UUIDField(label="Memory id", required=False)
    key = forms.CharField(label="Key", required=False, max_length=12)
    client = forms.CharField(label="Client", required=False, max_length=200)
    request = forms.CharField(label="Request id", required=False, max_length=64)
    beside = frozenset({"behind", "format"})
    for_admins: ClassVar = ("key", "client", "request")

    def __init__(self, *args: Any, principal: Principal, **kwargs: Any) -> None:
        super().__init__(*args, time_zone=principal.project.time_zone, **kwargs)
        self.fields["memory"].error_messages["invalid"] = "Enter a whole memory id."
        account = cast(forms.ChoiceField, self.fields["account"])
        account.choices = [
            ("", "Anyone"),
            *((str(id_), name or "Without a name") for id_, name in list_people(principal)),
        ]
        if Scope.ADMIN not in principal.scopes:
            # What asks for them all the same is refused, not passed over.
            asked = [name for name in self.for_admins if self.data.get(name)]
            if asked:
                principal.require(Scope.ADMIN, "Only administrators see keys and clients.")
            for name in self.for_admins:
                del self.fields[name]

    def meant(self) -> ActivityFilter:
        return ActivityFilter(**{name: value for name, value in self.cleaned_data.items() if value})


@require_safe
@page
def activity(request: PageRequest) -> HttpResponseBase:
    """Who did what, newest first; scope `read`. Whose entries they may see: accounts.audit."""
    principal = request.principal
    form = ActivityForm(request.GET, principal=principal)
    if not form.is_valid():
        return render(request, "memories/activity.html", {"form": form}, status=422)
    if form.untidy():
        query = form.query_string()
        return redirect(f"{reverse('memories:activity')}{'?' if query else ''}{query}")
    behind = ActivityKey.of(request.GET.get("behind", ""))
    found = list_entries(principal, form.meant(), limit=PER_PAGE + 1, behind=behind)
    shown = found[:PER_PAGE]
    labels = _labels(principal, shown) if Scope.ADMIN in principal.scopes else {}
    may_manage = Scope.ADMIN in principal.scopes
    context = {
        "form": form,
        "entries": [_told(entry, labels, may_manage=may_manage) for entry in shown],
        "older": position_of(shown[-1]) if len(found) > PER_PAGE else None,
        "is_top": behind is None,
        "may_manage": may_manage,
        "may_review": Scope.REVIEW in principal.scopes,
        "query": form.query_string(),
    }
    return render(request, "memories/activity.html", context)


def _told(
    entry: MemoryEntry | AuditDeed, labels: Mapping[str, str], *, may_manage: bool
) -> dict[str, Any]:
    """An entry as the template draws it."""
    row = entry.row
    told = {
        "is": entry,
        "via": _VIA.get(row.via, ""),
        "key": labels.get(row.key_prefix) or f"{row.key_prefix}…",
    }
    if isinstance(entry, MemoryEntry):
        word, look = words.EVENTS.get(entry.row.event, (entry.row.event, ""))
        return {**told, "word": word, "look": look}
    said = deeds.WORDS[AuditAction(entry.row.action)]
    if entry.row.action in KINDS["sign-ins"]:
        told["via"] = ""  # a session is what it brings, by page or by the API
    elif entry.row.account_id is None:
        told["via"] = ""  # the sentence says it
    return {
        **told,
        "word": said.word,
        "look": said.look,
        "sentence": deeds.describe(entry.row),
        "who": deeds.actor_words(entry.row),
        "facts": list(deeds.list_facts(entry.row, may_manage=may_manage)),
    }


def _labels(principal: Principal, shown: Iterable[MemoryEntry | AuditDeed]) -> dict[str, str]:
    labels_of: Callable[[UUID, Iterable[str]], dict[str, str]] = import_string(settings.KEY_LABELS)
    return labels_of(principal.project.id, [entry.row.key_prefix for entry in shown])


@require_safe
@page
def activity_export(request: PageRequest) -> HttpResponseBase:
    """The entries that the page's filter means as a file; scope `read`."""
    form = ActivityForm(request.GET, principal=request.principal)
    if not form.is_valid():
        problem = " ".join(map(str, form.non_field_errors()))
        raise InvalidInputError(problem or "The filter of this export cannot be read.")
    format_ = request.GET.get("format", "csv")
    return download(export(request.principal, form.meant(), format_), "activity", format_)
