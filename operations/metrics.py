"""Metrics of this process in Prometheus' text format (version 0.0.4)."""

import logging
import os
import resource
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Final

from django.conf import settings
from django.utils.module_loading import import_string
from prometheus_client import Counter, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from core.counters import registry
from core.http.finished import FinishedRequest
from core.version import VERSION

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
UNMATCHED: Final = "__unmatched__"
# Upper bounds in seconds: from a read out of the cache to an add that waits for an LLM.
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BOUNDS: Final = (*map(str, BUCKETS), "+Inf")
_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_SURFACES: Final = {"/api/v1/": "rest", "/mcp": "mcp", "/oauth/": "oauth"}
_STARTED: Final = time.time()

_REQUESTS: Final = Counter(
    "http_requests_total", "Finished requests.", ["method", "path", "status"], registry=registry
)
_REFUSED: Final = {
    401: Counter(
        "auth_failures_total",
        "Requests whose credential did not hold, or that had none.",
        ["surface"],
        registry=registry,
    ),
    429: Counter(
        "rate_limited_total",
        "Requests that were refused for there were too many.",
        ["surface"],
        registry=registry,
    ),
}


class Durations(Collector):
    """How long requests took, by method and route. Not the library's histogram, which writes the
    bounds as floats: "1.0" would be another series than the "1" that dashboards ask for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Requests up to each bound, those above the last, and the seconds of all.
        self._found: dict[tuple[str, str], tuple[list[int], float]] = {}

    def add(self, route: tuple[str, str], seconds: float) -> None:
        with self._lock:
            counts, spent = self._found.get(route) or ([0] * len(_BOUNDS), 0.0)
            counts[bisect_left(BUCKETS, seconds)] += 1
            self._found[route] = (counts, spent + seconds)

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            found = [(route, list(counts), spent) for route, (counts, spent) in self._found.items()]
        told = HistogramMetricFamily(
            "http_request_duration_seconds", "How long requests took.", labels=["method", "path"]
        )
        for route, counts, spent in found:
            so_far = zip(_BOUNDS, accumulate(counts), strict=True)
            told.add_metric(route, list(so_far), round(spent, 6))
        yield told


class Process(Collector):
    """What this process and its rooms are like just now."""

    def collect(self) -> Iterator[Metric]:
        yield from _gauges()
        yield GaugeMetricFamily(
            "process_resident_memory_bytes", "Memory that this process holds.", resident_bytes()
        )
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield CounterMetricFamily(
            "process_cpu_seconds_total",
            "CPU time that this process used.",
            round(used.ru_utime + used.ru_stime, 2),
        )
        yield GaugeMetricFamily(
            "process_start_time_seconds",
            "When this process started, in seconds since 1970.",
            round(_STARTED, 2),
        )
        version = GaugeMetricFamily("mem0dash_info", "Version.", labels=["version"])
        version.add_metric([VERSION], 1)
        yield version


_durations: Final = Durations()
registry.register(_durations)
registry.register(Process())
# The gauges that could not be read when they were last asked for.
_missing: set[str] = set()


def count_request(handled: FinishedRequest) -> None:
    """settings.REQUEST_METRICS: counts a finished request. The labels come from routes and from a
    closed set of methods: no caller can make more of them."""
    method = handled.method if handled.method in _METHODS else "OTHER"
    route = (method, _path(handled))
    _REQUESTS.labels(*route, str(handled.status)).inc()
    _durations.add(route, handled.ms / 1000)
    if refused := _REFUSED.get(handled.status):
        refused.labels(_surface(handled.path)).inc()


def exposition() -> bytes:
    """All metrics of this process."""
    return generate_latest(registry)


def _gauges() -> Iterator[Metric]:
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
        yield GaugeMetricFamily(name, told, value)


def resident_bytes() -> int:
    """The resident set of this process; its largest so far where the system tells no more."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def _path(handled: FinishedRequest) -> str:
    if handled.route:
        return handled.route
    return "/static/{path}" if handled.path.startswith("/static/") else UNMATCHED


def _surface(path: str) -> str:
    return next((name for below, name in _SURFACES.items() if path.startswith(below)), "api")
