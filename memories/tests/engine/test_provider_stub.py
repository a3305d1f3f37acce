"""The stub provider answers the real clients as the real providers do, also when it misbehaves."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from mem0.configs.prompts import ADDITIVE_EXTRACTION_PROMPT, generate_additive_extraction_prompt

from memories.tests.provider import Provider

pytestmark = pytest.mark.one_form

SAID = (
    "user: Ich trinke gern Tee. 我住在柏林。Мы едем в Рим!\nassistant: Schön. Noch etwas?\n"
    "user: Two lines\nuser: a third\n\n## Observation Date\nnot this one\n"
)
EXTRACTED = [
    "Ich trinke gern Tee.",
    "我住在柏林。",
    "Мы едем в Рим!",
    "Two lines",
    "a third",
    "## Observation Date",
    "not this one",
]


@pytest.fixture
def openai_client(provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="sk-1", base_url=provider.url, max_retries=0) as client:
        yield client


def _extraction() -> list[Any]:
    prompt = generate_additive_extraction_prompt(existing_memories=[], new_messages=SAID)
    system = {"role": "system", "content": ADDITIVE_EXTRACTION_PROMPT}
    return [system, {"role": "user", "content": prompt}]


def _chat(client: openai.OpenAI, **fields: Any) -> Any:
    messages = fields.pop("messages", [{"role": "user", "content": "Hello"}])
    answer = client.chat.completions.create(model="stub-chat", messages=messages, **fields)
    return answer.choices[0].message.content


def _texts(content: str) -> list[str]:
    return [row["text"] for row in json.loads(content)["memory"]]


def test_extraction_gives_each_sentence_of_the_user_in_its_own_words(
    provider: Provider, openai_client: openai.OpenAI
) -> None:
    content = _chat(openai_client, messages=_extraction(), response_format={"type": "json_object"})
    assert _texts(content) == EXTRACTED
    assert provider.chat.count == 1
    assert provider.chat.requests[0].headers["authorization"] == "Bearer sk-1"
    assert _chat(openai_client) == "Answer to: Hello"


def test_json_mode_is_refused_where_no_json_is_asked_for(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        _chat(openai_client, response_format={"type": "json_object"})
    assert caught.value.param == "messages"


def test_anthropic_clients_get_the_same_facts(provider: Provider) -> None:
    anthropic = pytest.importorskip("anthropic", reason="the optional client is not installed")
    system, user = (message["content"] for message in _extraction())
    with anthropic.Anthropic(api_key="k", base_url=provider.origin, max_retries=0) as client:
        said = client.messages.create(
            model="m", max_tokens=9, system=system, messages=[{"role": "user", "content": user}]
        )
    assert _texts(said.content[0].text) == EXTRACTED


def test_ollama_clients_get_the_same_facts(provider: Provider) -> None:
    ollama = pytest.importorskip("ollama", reason="the optional client is not installed")
    client = ollama.Client(host=provider.origin)
    assert _texts(client.chat("m", _extraction())["message"]["content"]) == EXTRACTED
    near = client.embed("m", ["green tea", "tea"])["embeddings"]
    assert np.allclose(near[1], provider.vector("tea"), atol=1e-6)
    assert "stub-embed:latest" in [model.model for model in client.list().models]
    assert client.show("m").modelinfo["stub.embedding_length"] == provider.dims


def test_gemini_clients_get_the_same_facts(provider: Provider) -> None:
    genai = pytest.importorskip("google.genai", reason="the optional client is not installed")
    client = genai.Client(api_key="k", http_options={"base_url": provider.origin})
    user = _extraction()[1]["content"]
    assert _texts(client.models.generate_content(model="m", contents=user).text) == EXTRACTED
    config = {"output_dimensionality": 8}
    found = client.models.embed_content(model="m", contents=["green tea", "tea"], config=config)
    assert [len(row.values) for row in found.embeddings] == [8, 8]


def test_vectors_of_texts_that_share_words_are_near(
    provider: Provider, openai_client: openai.OpenAI
) -> None:
    texts = ["She likes green tea.", "green tea", "The train leaves at nine."]
    rows = openai_client.embeddings.create(model="e", input=texts, dimensions=256).data
    a, b, c = (np.array(row.embedding) for row in rows)
    assert np.allclose([np.linalg.norm(v) for v in (a, b, c)], 1)
    assert a @ b > 0.5 > a @ c
    plain = openai_client.embeddings.create(model="e", input="tea", encoding_format="float").data
    assert np.allclose(plain[0].embedding, provider.vector("tea"))
    assert provider.embeddings.texts == 4


def test_faults_are_for_some_calls_or_for_ever(
    provider: Provider, openai_client: openai.OpenAI
) -> None:
    provider.chat.fail(429, retry_after=2, times=1)
    provider.chat.fail(503, times=1)
    with pytest.raises(openai.RateLimitError) as limited:
        _chat(openai_client)
    assert limited.value.response.headers["retry-after"] == "2"
    assert limited.value.code == "rate_limit_exceeded"
    with pytest.raises(openai.InternalServerError):
        _chat(openai_client)
    assert _chat(openai_client)
    fault = provider.chat.missing_model("stub-chat")
    for _ in range(2):
        with pytest.raises(openai.NotFoundError):
            _chat(openai_client)
    fault.stop()
    assert _chat(openai_client)
    provider.chat.fail(429, retry_after=60, as_date=True)
    with pytest.raises(openai.RateLimitError) as limited:
        _chat(openai_client)
    assert limited.value.response.headers["retry-after"].endswith("GMT")


def test_parameters_are_refused_only_where_they_are_sent(
    provider: Provider, openai_client: openai.OpenAI
) -> None:
    provider.chat.refuse("temperature")
    provider.embeddings.refuse("encoding_format", value="base64")
    assert _chat(openai_client)
    with pytest.raises(openai.BadRequestError) as refused:
        _chat(openai_client, temperature=0.1)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.BadRequestError):
        openai_client.embeddings.create(model="e", input="x", encoding_format="base64")
    assert openai_client.embeddings.create(model="e", input="x", encoding_format="float").data


@pytest.mark.parametrize("fault", ["reset", "truncate", "hang"])
def test_broken_connections_break(provider: Provider, fault: str) -> None:
    held = getattr(provider.chat, fault)(times=1)
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    with pytest.raises((httpx.HTTPError, ValueError)):
        httpx.post(f"{provider.url}/chat/completions", json=body, timeout=0.3).json()
    assert held.used == 1
    held.release()
    assert httpx.post(f"{provider.url}/chat/completions", json=body).status_code == 200


def test_calls_are_held_until_they_are_let_go(provider: Provider) -> None:
    held = provider.embeddings.hold()
    answers: list[int] = []

    def call() -> None:
        answer = httpx.post(f"{provider.url}/embeddings", json={"input": "x"}, timeout=10)
        answers.append(answer.status_code)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 5
    while provider.embeddings.in_flight < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert provider.embeddings.in_flight == 3 and not answers
    held.release()
    for thread in threads:
        thread.join(5)
    assert answers == [200] * 3
    assert provider.embeddings.max_in_flight == 3


def test_vectors_go_wrong_as_told(provider: Provider, openai_client: openai.OpenAI) -> None:
    def embed() -> list[tuple[int, list[float]]]:
        rows = openai_client.embeddings.create(
            model="e", input=["a", "b", "c"], encoding_format="float"
        ).data
        return [(row.index, row.embedding) for row in rows]

    for value in ("nan", "inf"):
        provider.embeddings.not_a_number(value, times=1)
        assert not np.isfinite(embed()[0][1][0])
    provider.embeddings.wrong_dims(7, times=1)
    assert len(embed()[0][1]) == 7
    provider.embeddings.too_few(times=1)
    assert len(embed()) == 2
    provider.embeddings.shuffle(times=1)
    rows = embed()
    assert [index for index, _ in rows] != [0, 1, 2]
    assert np.allclose(dict(rows)[1], provider.vector("b"))


def test_a_wrong_key_is_refused(provider: Provider, openai_client: openai.OpenAI) -> None:
    provider.api_key = "sk-2"
    with pytest.raises(openai.AuthenticationError):
        _chat(openai_client)
    assert provider.chat.count == 0
    assert len(provider.requests) == 1


def test_who_was_stopped_answers_nobody(provider: Provider, openai_client: openai.OpenAI) -> None:
    assert _chat(openai_client)
    provider.stop()
    with pytest.raises(openai.APIConnectionError):
        _chat(openai_client)
    port = int(provider.origin.rpartition(":")[2])
    with Provider(port=port):
        assert _chat(openai_client)
