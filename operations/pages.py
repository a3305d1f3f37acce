"""The page of the request log."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django import forms
from django.conf import settings
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.module_loading import import_string
from django.views.decorators.http import require_safe

from accounts.queries import names_of
from accounts.web import PageRequest, page
from core.pages.charts import Chart, Series, line_chart, stacked_chart
from core.pages.forms import DayField, FilterForm
from core.pages.paging import DescendingKey
from core.pages.partial import is_partial
from core.principal import Principal, Scope
from core.templatetags.ui import duration, number
from operations.models import RequestLog
from operations.strangers import count_refused
from operations.traffic import (
    Caller,
    Figures,
    Traffic,
    TrafficFilter,
    is_quick,
    list_newest,
    measure_traffic,
)

PER_PAGE: Final = 50
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
_PERIODS: Final = (("", "24 hours"), ("7d", "7 days"), ("30d", "30 days"))
_LABEL: Final = {"hour": "%d %b %H:%M", "day": "%d %b", "month": "%b %Y"}


def _select(label: str, *choices: tuple[str, str]) -> forms.ChoiceField:
    widget = forms.Select(attrs={"class": "form-select"})
    return forms.ChoiceField(label=label, required=False, choices=choices, widget=widget)


def _words(label: str, length: int, *, suggestions: str = "") -> forms.CharField:
    attrs = {"autocomplete": "off"} | ({"list": suggestions} if suggestions else {})
    widget = forms.TextInput(attrs=attrs)
    return forms.CharField(label=label, required=False, max_length=length, widget=widget)


class RequestsForm(FilterForm):
    """The filters of the page."""

    period = _select("Time", *((value, f"Last {words}") for value, words in _PERIODS))
    since = DayField(label="From")
    until = DayField(label="To")
    key = _words("Key", 20, suggestions="known-keys")
    client = _words("Client", 200, suggestions="known-clients")
    method = _select("Method", ("", "Any"), *((name, name) for name in _METHODS))
    path = _words("Path contains", 500)
    status = _select(
        "Status",
        ("", "Any"),
        ("2", "2xx, went well"),
        ("3", "3xx, sent elsewhere"),
        ("4", "4xx, refused"),
        ("5", "5xx, failed"),
    )
    slow = forms.IntegerField(
        label="Took at least (ms)",
        required=False,
        min_value=1,
        max_value=600_000,
        widget=forms.NumberInput(attrs={"inputmode": "numeric"}),
    )

    beside = frozenset({"behind", "figures"})

    def traffic_filter(self) -> TrafficFilter:
        values: dict[str, Any] = {name: value for name, value in self.cleaned_data.items() if value}
        slow_ms = values.pop("slow", 0)
        return TrafficFilter(**values, slow_ms=slow_ms, time_zone=self.time_zone)


@require_safe
@page
def requests_page(request: PageRequest) -> HttpResponseBase:
    """The requests to the API: figures by time, key and client, and the log; scope `admin`."""
    principal = request.principal
    principal.require(Scope.ADMIN, "Only administrators see what was asked of the API.")
    form = RequestsForm(request.GET, time_zone=principal.project.time_zone)
    if not form.is_valid():
        return render(request, "operations/requests.html", {"form": form}, status=422)
    if form.has_empty_parameters():
        query = form.query_string()
        return redirect(f"{reverse('requests-page')}{'?' if query else ''}{query}")
    traffic_filter = form.traffic_filter()
    behind = DescendingKey.of(request.GET.get("behind", ""))
    context: dict[str, Any] = {
        "form": form,
        "is_top": behind is None,
        "periods": _PERIODS,
        "period": _period_words(traffic_filter, form.cleaned_data["period"]),
        "retention": settings.REQUEST_LOG_RETENTION_DAYS,
    }
    partial = is_partial(request)
    wants_figures = request.GET.get("figures") == "1"
    if behind is None and (wants_figures or is_quick(principal, traffic_filter)):
        context |= _figures(principal, traffic_filter)
    if partial and wants_figures:
        return render(request, "operations/_figures.html", context)
    rows = list_newest(principal, traffic_filter, limit=PER_PAGE + 1, behind=behind)
    more = rows[PER_PAGE - 1] if len(rows) > PER_PAGE else None
    if principal.is_owner and behind is None:
        context["refused"] = count_refused(timezone.now() - timedelta(days=1))
    context |= {
        "rows": rows[:PER_PAGE],
        "older": DescendingKey(more.created_at, more.id) if more else None,
        "key_labels": _labels(principal, rows),
    }
    name = "operations/_requests.html" if partial else "operations/requests.html"
    return render(request, name, context)


def _figures(principal: Principal, traffic_filter: TrafficFilter) -> dict[str, Any]:
    figures = measure_traffic(principal, traffic_filter)
    callers = [caller for caller, _ in figures.callers]
    return {
        "traffic": figures,
        "names": names_of(caller.account_id for caller in callers),
        "labels": _labels(principal, callers),
        "charts": _charts(figures) if figures.all.total else [],
    }


def _labels(principal: Principal, callers: Iterable[RequestLog | Caller]) -> dict[str, str]:
    labels_of: Callable[[UUID, Iterable[str]], dict[str, str]] = import_string(settings.KEY_LABELS)
    return labels_of(principal.project.id, [caller.key_prefix for caller in callers])


def _charts(figures: Traffic) -> list[Chart]:
    labels = [_label(start, figures.unit) for start in figures.slots]
    of: list[Figures] = list(figures.slots.values())
    whole = figures.all
    counts = stacked_chart(
        "counts",
        f"Requests per {figures.unit} (UTC)",
        f"{number(whole.total)} requests, of which {number(whole.statuses[4])} were refused"
        f" and {number(whole.statuses[5])} failed.",
        labels=labels,
        series=[
            Series("Went well", "info", [f.total - f.statuses[4] - f.statuses[5] for f in of]),
            Series("Refused (4xx)", "warn", [f.statuses[4] for f in of]),
            Series("Failed (5xx)", "bad", [f.statuses[5] for f in of]),
        ],
        format_value=lambda value: f"{value:,.0f}",
    )
    times = line_chart(
        "times",
        f"Duration per {figures.unit} (UTC)",
        f"Half of the requests were answered within {duration(whole.p50 or 0)},"
        f" 95 % within {duration(whole.p95 or 0)}.",
        labels=labels,
        series=[
            Series("50 % within", "info", [f.p50 for f in of]),
            Series("95 % within", "warn", [f.p95 for f in of]),
        ],
        format_value=duration,
    )
    return [counts, times]


def _period_words(traffic_filter: TrafficFilter, period: str) -> str:
    """The period in words: "last 24 hours", "2026-11-01 to 2026-11-03"."""
    if traffic_filter.since or traffic_filter.until:
        first, last = (
            day.isoformat() if day else "" for day in (traffic_filter.since, traffic_filter.until)
        )
        if first and last:
            return f"{first} to {last}" if first != last else first
        return f"since {first}" if first else f"until {last}"
    return f"last {dict(_PERIODS)[period]}"


def _label(start: datetime, unit: str) -> str:
    return start.strftime(_LABEL[unit]).lstrip("0")
