"""What tests of the memory pages share: who looks, and what stands there."""

import html
import re
from typing import Any

from django.test import Client

LIST = "/dashboard/memories"
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>\u202e'
HTMX = {"HX-Request": "true"}


def text_of(answer: Any) -> str:
    """The page's HTML with white space collapsed and entities read."""
    return html.unescape(re.sub(r"\s+", " ", answer.content.decode()))


def texts(answer: Any) -> list[str]:
    """The texts of the list, in its order."""
    found = re.findall(r'<a class="mem-text"[^>]*>(.*?)</a>', answer.content.decode(), re.S)
    return [html.unescape(text) for text in found]


def addresses(answer: Any, pattern: str) -> list[str]:
    """What the page links to that matches."""
    found = re.findall(r'(?:href|action)="([^"]+)"', answer.content.decode())
    return [address for address in map(html.unescape, found) if re.search(pattern, address)]


def told(client: Client) -> list[str]:
    """What the last action came to, as the next page says it."""
    page = client.get(LIST).content.decode()
    box = re.search(r'<div class="messages".*?\n</div>', page, re.S)
    assert box is not None
    return [html.unescape(m) for m in re.findall(r"<div>(.*?)</div>", box[0])]


def undo_of(client: Client) -> str:
    """Where the Undo of the last action posts to."""
    [way] = addresses(client.get(LIST), r"/undo/\d+$")
    return way


def assert_inert(answer: Any) -> None:
    """HOSTILE stands there as text alone."""
    page = answer.content.decode()
    assert "&lt;img src=x" in page
    assert "<img" not in page and "<script>alert" not in page
