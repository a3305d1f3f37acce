"""Loads the regression set for finding and asks its questions of different rankers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from core.principal import Principal
from memories import runtime
from memories.adding import service as adding
from memories.filters import Comparison
from memories.search import service as search

DATA = Path(__file__).parent / "data" / "finding.json"
LANGUAGES = DATA.with_name("languages.json")
DEPTH = 10

Answer = list[UUID]
Ranker = Callable[[Principal, str, str], Answer]


@dataclass(frozen=True, slots=True)
class Question:
    """A question of one user's, with the memories that hold its answer."""

    user: str
    kind: str
    query: str
    relevant: frozenset[UUID]


def load(principal: Principal, *, one_user: bool = False) -> list[Question]:
    """Stores every turn and fact through the add service; the questions with memory ids.

    `one_user` puts everybody's memories under one user: a harder pool.
    """
    return stored(principal, json.loads(DATA.read_text(encoding="utf-8")), one_user=one_user)


def texts() -> list[str]:
    """Every turn and fact of the set."""
    data = json.loads(DATA.read_text(encoding="utf-8"))
    turns = [t for sessions in data["users"].values() for s in sessions for t in s["turns"]]
    facts = [fact for some in data["facts"].values() for fact in some]
    return [one["text"] for one in turns + facts]


def load_languages(principal: Principal) -> list[Question]:
    """The same with the set in other languages; the kind of a question is its language."""
    return stored(principal, json.loads(LANGUAGES.read_text(encoding="utf-8")))


def stored(principal: Principal, data: dict[str, Any], *, one_user: bool = False) -> list[Question]:
    """The same with a set that was read."""
    ids: dict[str, UUID] = {}

    def user_of(name: str) -> str:
        return "everyone" if one_user else name

    for name, sessions in data["users"].items():
        for session in sessions:
            start = datetime.fromisoformat(session["date"])
            for place, turn in enumerate(session["turns"]):
                at = (start + timedelta(minutes=place)).isoformat()
                ids[turn["id"]] = _add(principal, user_of(name), turn, session["run_id"], at)
    for name, facts in data["facts"].items():
        for fact in facts:
            ids[fact["id"]] = _add(principal, user_of(name), {"role": "user", **fact}, None, None)
    return [
        Question(
            user_of(q["user"]), q["kind"], q["query"], frozenset(ids[i] for i in q["relevant"])
        )
        for q in data["questions"]
    ]


def _add(
    principal: Principal, user: str, turn: dict[str, Any], run: str | None, at: str | None
) -> UUID:
    message = {"role": turn["role"], "content": turn["text"], "name": turn.get("name", "")}
    added = adding.add_memories(
        principal,
        messages=[message],
        entities={"user_id": user, "run_id": run},
        metadata={"created_at": at} if at else {},
    )
    return UUID(added.results[0]["id"])


def full(principal: Principal, user: str, query: str) -> Answer:
    """The product's own ranking."""
    where = Comparison("user_id", "eq", user)
    found = search.search_memories(principal, query, where=where, top_k=DEPTH)
    return [hit.memory.id for hit in found.hits]


def first_step(principal: Principal, user: str, query: str) -> Answer:
    """The product's own ranking without late interaction."""
    engine = runtime.get_runtime().engine
    reader, engine.reader = engine.reader, None
    try:
        return full(principal, user, query)
    finally:
        engine.reader = reader


def dense_only(principal: Principal, user: str, query: str) -> Answer:
    """Cosine similarity alone."""
    vector = runtime.get_runtime().engine.embed_query(query)
    assert vector is not None
    where = Comparison("user_id", "in", (user,))
    return [i for i, _ in runtime.get_runtime().index.search(vector, limit=DEPTH, where=where)]


def lexical_only(principal: Principal, user: str, query: str) -> Answer:
    """BM25 alone."""
    where = Comparison("user_id", "in", (user,))
    return [i for i, _ in runtime.get_runtime().index.search_text(query, limit=DEPTH, where=where)]


def recall(ranker: Ranker, principal: Principal, questions: list[Question], at: int) -> float:
    """Share of the relevant memories among the first `at`, averaged over answerable questions."""
    shares = [
        len(q.relevant & set(ranker(principal, q.user, q.query)[:at])) / min(len(q.relevant), at)
        for q in questions
        if q.relevant
    ]
    return sum(shares) / len(shares)


def reciprocal_rank(ranker: Ranker, principal: Principal, questions: list[Question]) -> float:
    """Mean of 1 / place of the first relevant memory (0 where none is among the first ten)."""
    ranks = []
    for q in questions:
        if q.relevant:
            answer = ranker(principal, q.user, q.query)
            places = [place for place, id_ in enumerate(answer, start=1) if id_ in q.relevant]
            ranks.append(1 / places[0] if places else 0.0)
    return sum(ranks) / len(ranks)
