"""What changed between two texts, word by word."""

import random

import pytest

from memories.browse.word_diff import COMPARED_WORDS, difference

pytestmark = pytest.mark.one_form


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("tea", "tea", [("same", "tea")]),
        ("", "tea", [("ins", "tea")]),
        ("tea", "", [("del", "tea")]),
        ("", "", []),
        (
            "Moves to Django 5.1 soon.",
            "Moves to Django 5.2 soon; stays on pytest.",
            [
                ("same", "Moves to Django "),
                ("del", "5.1"),
                ("ins", "5.2"),
                ("same", " soon"),
                ("ins", "; stays on pytest"),
                ("same", "."),
            ],
        ),
        # A lone space between two replaced words does not stand between them.
        ("a b c", "x y z", [("del", "a b c"), ("ins", "x y z")]),
        ("我喜欢茶", "我喜欢咖啡", [("same", "我喜欢"), ("del", "茶"), ("ins", "咖啡")]),
    ],
)
def test_words_that_changed_are_told(old: str, new: str, parts: list[tuple[str, str]]) -> None:
    assert difference(old, new) == parts


def test_both_texts_are_in_it_to_the_letter() -> None:
    random.seed(5)
    for _ in range(2000):
        old, new = (
            "".join(random.choices("ab c.\n_é茶<&\u202e1,", k=random.randint(0, 25)))
            for _ in range(2)
        )
        parts = difference(old, new)
        assert "".join(text for kind, text in parts if kind != "ins") == old
        assert "".join(text for kind, text in parts if kind != "del") == new
        assert all(text for _, text in parts)


def test_what_is_too_long_to_compare_is_replaced_between_what_is_common() -> None:
    old = " ".join(["same", *("old" for _ in range(COMPARED_WORDS)), "end"])
    new = " ".join(["same", *("new" for _ in range(COMPARED_WORDS)), "end"])
    kinds = [kind for kind, _ in difference(old, new)]
    assert kinds == ["same", "del", "ins", "same"]
