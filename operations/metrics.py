"""Metrics of this process in Prometheus' text format (version 0.0.4)."""

import logging
import os
import resource
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from django.conf import settings
from django.utils.module_loading import import_string

from mem0dash.counters import counters
from mem0dash.middleware import Handled
from mem0dash.version import VERSION

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
UNMATCHED: Final = "__unmatched__"
# Upper bounds in seconds: from a read out of the cache to an add that waits for an LLM.
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_SURFACES: Final = {"/api/v1/": "rest", "/mcp": "mcp", "/oauth/": "oauth"}
_STARTED: Final = time.time()

Labels = tuple[tuple[str, str], ...]


class Requests:
    """Counts and durations of finished requests. The labels come from routes and from a closed set
    of methods: no caller can make more of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[Labels, int] = {}
        # Requests up to each bound, those above the last, and the seconds of all.
        self._durations: dict[Labels, tuple[list[int], float]] = {}
        self._refused: dict[tuple[str, Labels], int] = {}

    def add(self, handled: Handled) -> None:
        """Counts one request."""
        method = handled.method if handled.method in _METHODS else "OTHER"
        route = (("method", method), ("path", _path(handled)))
        total = (*route, ("status", str(handled.status)))
        seconds = handled.ms / 1000
        with self._lock:
            self._totals[total] = self._totals.get(total, 0) + 1
            counts, spent = self._durations.get(route) or ([0] * (len(BUCKETS) + 1), 0.0)
            counts[bisect_left(BUCKETS, seconds)] += 1
            self._durations[route] = (counts, spent + seconds)
            if name := {401: "auth_failures_total", 429: "rate_limited_total"}.get(handled.status):
                where = (name, (("surface", _surface(handled.path)),))
                self._refused[where] = self._refused.get(where, 0) + 1

    def lines(self) -> Iterator[str]:
        with self._lock:
            totals, refused = dict(self._totals), dict(self._refused)
            durations = {k: (list(counts), spent) for k, (counts, spent) in self._durations.items()}
        yield from _family("http_requests_total", "counter", "Finished requests.", totals.items())
        name = "http_request_duration_seconds"
        yield from _head(name, "histogram", "How long requests took.")
        for labels, (counts, spent) in durations.items():
            so_far = 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                so_far += count
                yield _line(f"{name}_bucket", (*labels, ("le", bound)), so_far)
            yield _line(f"{name}_sum", labels, round(spent, 6))
            yield _line(f"{name}_count", labels, so_far)
        for name, told in (
            ("auth_failures_total", "Requests whose credential did not hold, or that had none."),
            ("rate_limited_total", "Requests that were refused for there were too many."),
        ):
            found = [(labels, n) for (of, labels), n in refused.items() if of == name]
            yield from _family(name, "counter", told, found)


requests = Requests()
# The gauges that could not be read when they were last asked for.
_missing: set[str] = set()


def record(handled: Handled) -> None:
    """settings.REQUEST_METRICS: counts a finished request."""
    requests.add(handled)


def exposition() -> str:
    """All metrics of this process."""
    return "\n".join([*requests.lines(), *_counted(), *_gauges(), *_process(), ""])


def _counted() -> Iterator[str]:
    for counter in counters:
        yield from _family(counter.name, "counter", counter.help, [((), counter.value)])


def _gauges() -> Iterator[str]:
    for name, (told, path) in settings.METRICS_GAUGES.items():
        try:
            value = import_string(path)()
        except Exception as error:  # noqa: BLE001  (the others are wanted then above all)
            # Logged once for each outage, because monitors ask every few seconds.
            if name not in _missing:
                _missing.add(name)
                cause = f"{type(error).__name__}: {error}".strip()[:300]
                logger.warning("a metric is missing", extra={"metric": name, "cause": cause})
            continue
        _missing.discard(name)
        yield from _family(name, "gauge", told, [((), value)])


def _process() -> Iterator[str]:
    told = "Memory that this process holds."
    yield from _family("process_resident_memory_bytes", "gauge", told, [((), resident_bytes())])
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = round(used.ru_utime + used.ru_stime, 2)
    told = "CPU time that this process used."
    yield from _family("process_cpu_seconds_total", "counter", told, [((), seconds)])
    told = "When this process started, in seconds since 1970."
    yield from _family("process_start_time_seconds", "gauge", told, [((), round(_STARTED, 2))])
    yield from _family("mem0dash_info", "gauge", "Version.", [((("version", VERSION),), 1)])


def resident_bytes() -> int:
    """The resident set of this process; its largest so far where the system tells no more."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def _path(handled: Handled) -> str:
    if handled.route:
        return handled.route
    return "/static/{path}" if handled.path.startswith("/static/") else UNMATCHED


def _surface(path: str) -> str:
    return next((name for below, name in _SURFACES.items() if path.startswith(below)), "api")


def _family(
    name: str, kind: str, told: str, values: Iterable[tuple[Labels, float]]
) -> Iterator[str]:
    yield from _head(name, kind, told)
    for labels, value in values:
        yield _line(name, labels, value)


def _head(name: str, kind: str, told: str) -> Iterator[str]:
    yield f"# HELP {name} {told}"
    yield f"# TYPE {name} {kind}"


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{label}="{text}"' for label, text in labels)
    return f"{name}{{{inside}}} {value}" if labels else f"{name} {value}"
