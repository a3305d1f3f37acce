"""Tags and filters for the templates of all rooms: icons, numbers, times."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from core.pages.forms import FilterForm

register = template.Library()


@register.simple_tag
def icon(name: str, extra: str = "") -> SafeString:
    """An icon of static/icons.svg, hidden from screen readers, because text stands beside it."""
    return format_html(
        '<svg class="icon{}" aria-hidden="true"><use href="{}#{}"></use></svg>',
        f" {extra}" if extra else "",
        static("icons.svg"),
        name,
    )


@register.filter
def marked(parts: Iterable[tuple[str, str]]) -> SafeString:
    """A text in parts of ("same", "ins" or "del", text), with the changes as <ins> and <del>."""
    tags = {"ins": "<ins>{}</ins>", "del": "<del>{}</del>"}
    tagged = (format_html(tags.get(kind, "{}"), text) for kind, text in parts)
    return format_html_join("", "{}", ((part,) for part in tagged))


@register.filter
def number(value: Any) -> str:
    """A count with separators: 1,284."""
    return f"{int(value):,}"


@register.filter
def times(count: int) -> str:
    """How often: once, twice, 12 times, 1,284 times."""
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


@register.filter
def duration(ms: float) -> str:
    """How long something took: 38 ms, 1.2 s, 60 s."""
    if ms < 1000:
        return f"{ms:.0f} ms"
    return f"{ms / 1000:.1f} s" if ms < 10_000 else f"{ms / 1000:,.0f} s"


@register.filter
def ago(moment: datetime | None) -> SafeString | str:
    """The time since `moment` in words, with the exact time in its title; "" for None."""
    if moment is None:
        return ""
    words = relative(moment, timezone.now())
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact(moment), words
    )


@register.filter
def clock(moment: datetime | None) -> SafeString | str:
    """A time of day, with the date unless it is today."""
    if moment is None:
        return ""
    at, today = moment.astimezone(UTC), timezone.now().astimezone(UTC).date()
    words = f"{at:%H:%M} UTC" if at.date() == today else f"{at:%Y-%m-%d %H:%M} UTC"
    return format_html('<time datetime="{}">{}</time>', moment.isoformat(), words)


@register.filter
def day(moment: datetime | None) -> SafeString | str:
    """The day of a future event, with the exact time in its title."""
    if moment is None:
        return ""
    at = moment.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        moment.isoformat(),
        exact(moment),
        f"{at:%Y-%m-%d}",
    )


@register.filter
def exact(moment: datetime | None) -> str:
    """Date and time with their zone."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else ""


def relative(moment: datetime, now: datetime) -> str:
    passed = now - moment
    if passed < timedelta(minutes=1):
        return "just now"
    if passed < timedelta(hours=1):
        return f"{passed.seconds // 60} min ago"
    if passed < timedelta(days=1):
        return f"{passed.seconds // 3600} h ago"
    if passed < timedelta(days=2):
        return "yesterday"
    if passed < timedelta(days=30):
        return f"{passed.days} days ago"
    return f"{moment.astimezone(UTC):%Y-%m-%d}"


@register.simple_tag
def narrowed(form: FilterForm, **changes: object) -> str:
    """The address of the same list with these fields changed; "" removes one."""
    query = form.query_string(**{name: str(value) for name, value in changes.items()})
    return f"?{query}"
