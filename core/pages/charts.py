"""Charts drawn on the server: geometry for templates/_chart.html, which needs no script.

Coordinates are in a box of 1000 by 100 that the page stretches to its width. A table below each
chart has the same data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, log10
from typing import Final

WIDTH: Final = 1000.0
HEIGHT: Final = 100.0


@dataclass(frozen=True, slots=True)
class Series:
    """The values of one colour; `look` is ok, info, warn or bad. None is a gap."""

    name: str
    look: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class ChartBar:
    look: str
    x: str
    y: str
    width: str
    height: str


@dataclass(frozen=True, slots=True)
class ChartLine:
    """`path` is SVG path data."""

    look: str
    path: str


@dataclass(frozen=True, slots=True)
class ChartColumn:
    """One label: its area for the pointer, and its row of the table."""

    x: str
    width: str
    label: str
    cells: Sequence[str]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart for the template. `top` is the value of the upper edge."""

    name: str
    title: str
    words: str
    series: Sequence[Series]
    top: str
    columns: Sequence[ChartColumn]
    bars: Sequence[ChartBar] = ()
    lines: Sequence[ChartLine] = ()

    def marks(self) -> list[str]:
        """First, middle and last label, for below the chart."""
        last = len(self.columns) - 1
        return [self.columns[at].label for at in sorted({0, last // 2, last}) if last >= 0]


Written = Callable[[float], str]


def stacked_chart(
    name: str,
    title: str,
    words: str,
    *,
    labels: Sequence[str],
    series: Sequence[Series],
    format_value: Written,
) -> Chart:
    """Bars, the first series at the bottom. `name` is unique on the page, `words` describe the
    chart, `format_value` renders a value. All series have a value for each label."""
    totals = [sum(s.values[at] or 0 for s in series) for at in range(len(labels))]
    top = nice_top(max(totals, default=0))
    step = WIDTH / max(len(labels), 1)
    bars: list[ChartBar] = []
    for at in range(len(labels)):
        below = 0.0
        for one in series:
            height = (one.values[at] or 0) / top * HEIGHT
            if height:
                # Small values beside large ones stay visible.
                height = max(height, 1.5)
                x, y = (at + 0.12) * step, HEIGHT - below - height
                bars.append(ChartBar(one.look, _n(x), _n(y), _n(step * 0.76), _n(height)))
                below += height
    columns = _columns(labels, series, format_value)
    return Chart(name, title, words, series, format_value(top), columns, bars=bars)


def line_chart(
    name: str,
    title: str,
    words: str,
    *,
    labels: Sequence[str],
    series: Sequence[Series],
    format_value: Written,
) -> Chart:
    """Lines with gaps at missing values; a lone value is a dot. Arguments as `stacked_chart`."""
    values = [value for one in series for value in one.values if value is not None]
    top = nice_top(max(values, default=0))
    step = WIDTH / max(len(labels), 1)
    lines = []
    for one in series:
        path = ""
        for is_gap, run in groupby(enumerate(one.values), lambda item: item[1] is None):
            if is_gap:
                continue
            points = [
                f"{_n((at + 0.5) * step)} {_n(HEIGHT - (value or 0) / top * HEIGHT)}"
                for at, value in run
            ]
            path += f"M{'L'.join(points)}{'h0' if len(points) == 1 else ''}"
        if path:
            lines.append(ChartLine(one.look, path))
    columns = _columns(labels, series, format_value)
    return Chart(name, title, words, series, format_value(top), columns, lines=lines)


def nice_top(most: float) -> float:
    """A round number at or above `most` for the upper edge; at least 1."""
    if most <= 1:
        return 1.0
    unit = 10.0 ** floor(log10(most))
    return next(unit * n for n in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if ceil(most) <= unit * n)


def _columns(
    labels: Sequence[str], series: Sequence[Series], format_value: Written
) -> list[ChartColumn]:
    step = WIDTH / max(len(labels), 1)
    columns = []
    for at, label in enumerate(labels):
        values = [one.values[at] for one in series]
        cells = ["–" if value is None else format_value(value) for value in values]
        columns.append(ChartColumn(_n(at * step), _n(step), label, cells))
    return columns


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
