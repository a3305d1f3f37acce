"""What language models answer, and what is read in it: never less, never more."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ProviderError
from memories.engine import replies

pytestmark = pytest.mark.one_form

TEA = '{"memory": [{"text": "Likes tea", "attributed_to": "user"}]}'
DEEP = "[" * 200_000


def read(reply: Any) -> list[str]:
    """The texts of an extraction."""
    return [memory["text"] for memory in json.loads(replies.read_extraction(reply))["memory"]]


# --- Extractions ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "reply",
    [
        TEA,
        f"\ufeff  {TEA}\n\n",
        f"```json\n{TEA}\n```",
        f"```\n{TEA}\n```",
        f"```json\n{TEA}",
        f"Here you are:\n```json\n{TEA}\n```\nAnything else?",
        f"Of course! {TEA} I hope that helps {{you}}.",
        f"<think>They like tea.</think>{TEA}",
        f"<thinking>Hm</thinking>\n\n{TEA}",
        f"<THINK>Hm</THINK>\n\n{TEA}",
        f"They like tea, so:\n</think>\n{TEA}",
        f'<think>{{"memory": []}} or {{"memory": [</think>{TEA}',
        f"<think>a</think><think>b</think>{TEA}<think>c</think>",
        f"<think>a</think>{TEA}\n<think>that was all",
        f'The form is {{"memory": []}}. {TEA}',
        f'{TEA} Without any it were {{"memory": []}}.',
        f"Draft: {{}} Final: {TEA}",
        f"[Note: one memory] {TEA}",
        f"A list [1], [a] and {{b}}: {TEA}",
        f"```python\nprint()\n```\n```json\n{TEA}\n```",
        f"```python\nprint()\n``` {TEA}",
        '{"memories": [{"text": "Likes tea"}]}',
        '{"facts": ["Likes tea"]}',
        '{"memory": ["Likes tea"]}',
        '{"memory": [{"memory": "Likes tea", "event": "ADD"}]}',
        '{"reasoning": "x", "memory": [{"id": 1, "text": "Likes tea"}]}',
        '["Likes tea"]',
        '[{"text": "Likes tea"}]',
        '```json\n["Likes tea"]\n```',
        'Here: [{"text": "Likes tea"}]',
        '```json\n[{"text": "Likes tea"}]\n```\nBye',
        '{"memory": [{"text": "Likes tea"}, {"text": ""}, "  "]}',
        [{"type": "text", "text": TEA}],
        [{"type": "thinking", "thinking": "x"}, TEA[:20], {"text": TEA[20:]}],
    ],
)
def test_one_memory_is_read_whatever_stands_around_it(reply: Any) -> None:
    assert read(reply) == ["Likes tea"]


@pytest.mark.parametrize(
    "reply",
    [
        '{"memory": []}',
        "[]",
        "```json\n[]\n```",
        '<think>x</think>{"facts": []}',
        '{"memory":[""]}',
    ],
)
def test_nothing_to_remember_is_an_answer(reply: str) -> None:
    assert read(reply) == []


@pytest.mark.parametrize(
    "reply",
    [
        None,
        "",
        " \n",
        5,
        {"memory": []},
        [],
        [None, 5, {"text": 5}],
        "Nothing worth remembering.",
        "null",
        "{}",
        "[1, 2]",
        '[["a"]]',
        '{"memory": null}',
        '{"memory": "Likes tea"}',
        '{"memory": {"text": "Likes tea"}}',
        '{"memory": [{"fact": "Likes tea"}]}',
        '{"memory": [{"text": 5}]}',
        '{"memory": [null]}',
        '{"result": [{"text": "Likes tea"}]}',
        TEA[:-1],
        TEA[:-10],
        '[{"text": "Likes tea"}, {"text": "Lik',
        '[{"memory": ["Likes tea"]}, {"mem',
        '{"memory": [{"text": "Likes tea"}, {"text": "Likes co',
        'Sure: {"memory": [{"text": "Likes tea"}, {"memory": ["x"]}, {"text": "Lik',
        'In the form {"memory": []}: {"memory": [{"text": "Lik',
        '<think>Perhaps {"memory": []}',
        f"<think>Perhaps {TEA}",
        "<think>They like tea.</think>",
        f"{TEA} Or rather:</think>",
        "```json\n```",
        "{'memory': ['Likes tea']}",
        DEEP,
        '{"memory": ' * 100_000,
        "<think>" * 5_000,
        "</think>" * 5_000,
        "```" * 50_000,
        "`" * 200_001,
        "```" + "a" * 200_000,
        "{" * 200_000,
        "[ " * 200_000,
        '{"memory": [' + "9" * 10_000 + "]}",
    ],
    ids=lambda reply: str(reply)[:40],
)
def test_what_is_no_answer_is_an_error_and_nothing_is_invented(reply: Any) -> None:
    with pytest.raises(ProviderError) as raised:
        replies.read_extraction(reply)
    assert raised.value.code == "provider_bad_reply"
    assert raised.value.cause


@pytest.mark.parametrize(
    "text",
    [
        "Asks about <think> and </think> tags",
        "Wrote <think>nothing</think> there",
        'Uses ```json {"memory": []} ``` fences',
        'Says {"memory": ["coffee"]}',
        "Ends in a bracket ]} and {",
        "Ich trinke Tee — 我喝茶 — أشرب الشاي 🌻",
        'Quotes "tea" and \\ and \u2028 lines',
    ],
)
@pytest.mark.parametrize("form", ["{}", "```json\n{}\n```", "<think>Hm.</think>Here: {}"])
def test_a_memory_may_speak_of_anything(text: str, form: str) -> None:
    reply = form.replace("{}", json.dumps({"memory": [{"text": text}]}))
    assert read(reply) == [text]


def test_mem0_reads_in_it_what_we_do() -> None:
    from mem0.memory.utils import remove_code_blocks

    said = ["Opens <think> here", "closes </think> there", "```\nfence\n```"]
    made = replies.read_extraction(json.dumps({"memory": said}))
    assert [m["text"] for m in json.loads(remove_code_blocks(made))["memory"]] == said


def test_what_no_database_keeps_is_left_out() -> None:
    assert read(r'{"memory": ["Likes\u0000 tea \ud83d", "\u0000"]}') == ["Likes tea \ufffd"]
    assert read(r'{"memory": ["\ud83c\udf3b"]}') == ["🌻"]
    assert replies.plain_text("tea\0 \ud83d") == "tea \ufffd"


def test_the_speaker_is_kept_where_one_is_named() -> None:
    reply = {
        "memory": [
            {"text": "a", "attributed_to": "user", "x": 1},
            {"text": "b", "attributed_to": 5},
        ]
    }
    assert json.loads(replies.read_extraction(json.dumps(reply)))["memory"] == [
        {"text": "a", "attributed_to": "user"},
        {"text": "b"},
    ]


# --- Other JSON, and text ------------------------------------------------------------------------
@pytest.mark.parametrize(
    "reply",
    ['{"a": 1}', 'So: {"a": 1} {"b": 2}', '```\n{"a": 1}\n```', '<think>{"b": 2}</think>{"a": 1}'],
)
def test_the_first_object_of_a_reply_is_read(reply: str) -> None:
    assert replies.json_object(reply) == {"a": 1}


@pytest.mark.parametrize("reply", [None, "", "[1]", "tea", '{"a": 1', DEEP, '<think>{"a": 1}'])
def test_a_reply_without_an_object_is_an_error(reply: Any) -> None:
    with pytest.raises(ProviderError):
        replies.json_object(reply)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (" ready\n", "ready"),
        ("<think>x</think>ready", "ready"),
        ("x</think> ready", "ready"),
        ("ready <think>was that", "ready"),
        ("a <think>x</think> b", "a  b"),
        ([{"type": "text", "text": "ready"}], "ready"),
        ("```\nready\n```", "```\nready\n```"),
    ],
)
def test_text_is_kept_without_thoughts(reply: Any, text: str) -> None:
    assert replies.plain_text(reply) == text


@pytest.mark.parametrize("reply", [None, "", "  ", "<think>x</think>", "<think>x", "```\n```", 5])
def test_no_text_is_an_error(reply: Any) -> None:
    with pytest.raises(ProviderError):
        replies.plain_text(reply)


# --- Anything ------------------------------------------------------------------------------------
PIECES = st.sampled_from(
    ["<think>", "</think>", "```json\n", "```", "{", "}", "[", "]", '"', ":", ",", "\\", "memory",
     '{"memory": []}', TEA, '{"facts": ["x"]}', "null", "\0", "\ud800", " ", "\n", "prose"]
)  # fmt: skip
ANYTHING = st.one_of(
    st.lists(PIECES, max_size=30).map("".join),
    st.text(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=10),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=10), inner),
        max_leaves=10,
    ),
)


@given(ANYTHING)
@settings(max_examples=500, deadline=None)
def test_any_reply_is_read_or_refused(reply: Any) -> None:
    for reader in (replies.read_extraction, replies.json_object, replies.plain_text):
        try:
            made = reader(reply)
        except ProviderError as error:
            assert error.code == "provider_bad_reply"
            continue
        json.dumps(made, ensure_ascii=False).encode()  # it can be written down
        if reader is replies.read_extraction and isinstance(reply, str):
            assert all(
                text in reply.replace("\0", "").replace("\ud800", "\ufffd") for text in read(reply)
            )


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), max_size=5
)


@given(TEXTS, st.booleans(), st.booleans(), st.sampled_from(["", "<think>{x}</think>", "Here: "]))
@settings(max_examples=300, deadline=None)
def test_what_was_written_is_what_is_read(
    texts: list[str], ascii_: bool, fenced: bool, before: str
) -> None:
    made = json.dumps({"memory": [{"text": text} for text in texts]}, ensure_ascii=ascii_)
    reply = before + (f"```json\n{made}\n```" if fenced else made)
    kept = [text.replace("\0", "").strip() for text in texts]
    assert read(reply) == [text for text in kept if text]


@given(TEXTS.filter(bool), st.data())
@settings(max_examples=300, deadline=None)
def test_a_reply_that_was_cut_off_is_never_an_answer(texts: list[str], data: Any) -> None:
    made = json.dumps({"memory": [{"text": text} for text in texts]})
    at = data.draw(st.integers(0, len(made) - 1))
    with pytest.raises(ProviderError):
        replies.read_extraction(made[:at])
