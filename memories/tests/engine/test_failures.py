"""What the SDKs of providers raise, as our codes with a cause in words."""

import email.utils
import json
import socket
import ssl
import time
from typing import Any

import anthropic
import groq
import httpx
import httpx2
import ollama
import openai
import pytest
from google.genai import errors as gemini

from core.errors import ProviderError
from memories.engine import failures
from memories.engine.failures import (
    AUTH,
    LIMITED,
    MALFORMED,
    REFUSED,
    TIMEOUT,
    UNAVAILABLE,
    UNKNOWN,
    translate,
)

pytestmark = pytest.mark.one_form

STATUSES = {
    400: REFUSED,
    401: AUTH,
    402: REFUSED,
    403: AUTH,
    404: REFUSED,
    408: TIMEOUT,
    409: REFUSED,
    413: REFUSED,
    422: REFUSED,
    429: LIMITED,
    500: UNAVAILABLE,
    502: UNAVAILABLE,
    503: UNAVAILABLE,
    504: TIMEOUT,
    529: UNAVAILABLE,
}
SDKS = {"openai": (openai, httpx2), "anthropic": (anthropic, httpx), "groq": (groq, httpx)}


def http_of(sdk: Any) -> Any:
    """The HTTP library that this SDK is built on."""
    name = next(c.__module__ for c in sdk.DefaultHttpxClient.__mro__ if c.__name__ == "Client")
    return {"httpx": httpx, "httpx2": httpx2}[name.partition(".")[0]]


def of_sdk(sdk: Any, status: int, headers: dict[str, str] | None = None, said: str = "No.") -> Any:
    """What a client of this SDK raises for an answer with this status."""
    http = http_of(sdk)
    body = {"error": {"message": said, "type": "x"}}

    def answer(request: Any) -> Any:
        return http.Response(status, json=body, headers=headers or {})

    transport = http.MockTransport(answer)
    client_class = getattr(sdk, {openai: "OpenAI", anthropic: "Anthropic", groq: "Groq"}[sdk])
    client = client_class(api_key="k", http_client=http.Client(transport=transport), max_retries=0)
    messages = [{"role": "user", "content": "x"}]
    try:
        if sdk is anthropic:
            client.messages.create(model="m", max_tokens=5, messages=messages)
        else:
            client.chat.completions.create(model="m", messages=messages)
    except Exception as error:  # noqa: BLE001  (which one it is, is the question)
        return error
    raise AssertionError("it was accepted")


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("sdk", [openai, anthropic, groq], ids=lambda sdk: sdk.__name__)
def test_the_statuses_of_openai_anthropic_and_groq(sdk: Any, status: int) -> None:
    error = translate(of_sdk(sdk, status, said="Because of tea."))
    assert error.code == STATUSES[status]
    assert error.message == failures.MESSAGES[error.code]
    assert "Because of tea." in error.cause
    assert str(status) in error.cause


@pytest.mark.parametrize("status", STATUSES)
def test_the_statuses_of_gemini(status: int) -> None:
    body = {"error": {"code": status, "message": "Because of tea.", "status": "X"}}
    class_ = gemini.ServerError if status >= 500 else gemini.ClientError
    error = translate(class_(status, body, httpx.Response(status, headers={"Retry-After": "7"})))
    assert error.code == STATUSES[status]
    assert "Because of tea." in error.cause
    assert str(status) in error.cause
    assert error.retry_after == 7


@pytest.mark.parametrize("status", STATUSES)
def test_the_statuses_of_ollama(status: int) -> None:
    error = translate(ollama.ResponseError(json.dumps({"error": "Because of tea."}), status))
    assert error.code == STATUSES[status]
    assert "Because of tea." in error.cause
    assert str(status) in error.cause


class BotoClientError(Exception):
    """As botocore.exceptions.ClientError."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__(f"An error occurred ({code}) when calling InvokeModel: Because of tea.")
        metadata = {"HTTPStatusCode": status, "HTTPHeaders": {"retry-after": "7"}}
        self.response = {"Error": {"Code": code}, "ResponseMetadata": metadata}


@pytest.mark.parametrize(
    ("code", "status", "wanted"),
    [
        ("ThrottlingException", 429, LIMITED),
        ("AccessDeniedException", 403, AUTH),
        ("ValidationException", 400, REFUSED),
        ("ModelTimeoutException", 408, TIMEOUT),
        ("ServiceUnavailableException", 503, UNAVAILABLE),
    ],
)
def test_the_statuses_of_bedrock(code: str, status: int, wanted: str) -> None:
    error = translate(BotoClientError(code, status))
    assert error.code == wanted
    assert "Because of tea." in error.cause
    assert error.retry_after == 7


def named(name: str, *bases: type[Exception]) -> Exception:
    """An exception of a package that is not installed here."""
    made: Exception = type(name, bases or (Exception,), {})("It said so.")
    return made


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError("slow"), TIMEOUT),
        (socket.timeout("slow"), TIMEOUT),  # noqa: UP041  (what older code raises)
        (ConnectionRefusedError(111, "Connection refused"), UNAVAILABLE),
        (ConnectionResetError(104, "Connection reset by peer"), UNAVAILABLE),
        (BrokenPipeError(32, "Broken pipe"), UNAVAILABLE),
        (socket.gaierror(-2, "Name or service not known"), UNAVAILABLE),
        (ssl.SSLError(1, "wrong version number"), UNAVAILABLE),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), UNAVAILABLE),
        (named("EndpointConnectionError"), UNAVAILABLE),
        (named("ConnectTimeoutError"), TIMEOUT),
        (named("ReadTimeoutError"), TIMEOUT),
        (named("NoCredentialsError"), AUTH),
        (gemini.UnknownApiResponseError("Failed to parse response as JSON."), MALFORMED),
        (json.JSONDecodeError("Expecting value", "<html>", 0), MALFORMED),
        (RuntimeError("what?"), UNKNOWN),
        (MemoryError(), UNKNOWN),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_what_the_system_and_other_packages_raise(error: Exception, code: str) -> None:
    found = translate(error)
    assert (found.code, found.message) == (code, failures.MESSAGES[code])
    assert found.cause == (str(error) or type(error).__name__)


@pytest.mark.parametrize("http", [httpx, httpx2], ids=lambda http: http.__name__)
def test_what_the_http_clients_raise(http: Any) -> None:
    request = http.Request("POST", "http://provider")
    for name in ("ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout"):
        assert translate(getattr(http, name)("slow", request=request)).code == TIMEOUT, name
    for name in ("ConnectError", "ReadError", "WriteError", "RemoteProtocolError", "ProxyError"):
        assert translate(getattr(http, name)("away", request=request)).code == UNAVAILABLE, name
    assert translate(http.DecodingError("no gzip", request=request)).code == MALFORMED
    for status, code in STATUSES.items():
        response = http.Response(status, request=request, headers={"retry-after": "7"})
        error = translate(http.HTTPStatusError("No.", request=request, response=response))
        assert (error.code, error.retry_after) == (code, 7), status


@pytest.mark.parametrize("sdk", [openai, anthropic, groq], ids=lambda sdk: sdk.__name__)
def test_a_timeout_is_none_of_the_broken_connections_it_is_derived_from(sdk: Any) -> None:
    http = http_of(sdk)
    request = http.Request("POST", "http://provider")
    assert translate(sdk.APITimeoutError(request=request)).code == TIMEOUT
    error = sdk.APIConnectionError(request=request)
    error.__cause__ = http.ConnectError("[Errno 111] Connection refused")
    found = translate(error)
    assert found.code == UNAVAILABLE
    assert "Connection error." in found.cause
    assert "[Errno 111] Connection refused" in found.cause


@pytest.mark.parametrize("sdk", [openai, anthropic, groq], ids=lambda sdk: sdk.__name__)
def test_a_success_that_its_sdk_cannot_read_is_a_bad_reply(sdk: Any) -> None:
    http = http_of(sdk)
    response = http.Response(200, request=http.Request("POST", "http://provider"))
    error = sdk.APIResponseValidationError(response=response, body=None)
    assert translate(error).code == MALFORMED


def test_an_error_of_ours_stays_what_it_is_however_it_is_wrapped() -> None:
    ours = failures.failure(TIMEOUT, "The answer came too slowly.")
    assert translate(ours) is ours
    wrapped = openai.APIConnectionError(request=httpx2.Request("POST", "http://provider"))
    wrapped.__cause__ = ours
    assert translate(wrapped) is ours


def test_the_first_of_the_chain_that_is_known_counts_and_circles_end() -> None:
    outer, inner = RuntimeError("wrapped"), TimeoutError("slow")
    outer.__cause__ = inner
    inner.__context__ = outer
    assert (translate(outer).code, translate(outer).cause) == (TIMEOUT, "slow")


# --- Causes --------------------------------------------------------------------------------------
def test_a_cause_is_one_line_of_limited_length() -> None:
    cause = translate(RuntimeError("a\n\tb   c" + "x" * 10_000)).cause
    assert cause.startswith("a b cxxx")
    assert len(cause) == failures.CAUSE_LENGTH + 1
    assert cause.endswith("…")


def test_secrets_are_taken_out_before_a_cause_is_cut() -> None:
    secrets = ("sk-1234", "sk-1234-longer", "")
    for error in (
        RuntimeError("Bad key sk-1234-longer, not sk-1234."),
        of_sdk(openai, 401, said="Bad key sk-1234-longer, not sk-1234."),
        ollama.ResponseError("Bad key sk-1234-longer, not sk-1234.", 401),
    ):
        cause = translate(error, secrets=secrets).cause
        assert "Bad key [redacted], not [redacted]." in cause
        assert "sk-1234" not in cause
        assert "longer" not in cause
    at_the_cut = RuntimeError("x" * (failures.CAUSE_LENGTH - 3) + "sk-1234")
    assert "sk-" not in translate(at_the_cut, secrets=secrets).cause
    outer = openai.APIConnectionError(request=httpx2.Request("POST", "http://provider"))
    outer.__cause__ = RuntimeError("Illegal header value sk-1234")
    assert "sk-1234" not in translate(outer, secrets=secrets).cause


def test_what_no_database_keeps_is_not_in_a_cause() -> None:
    assert translate(RuntimeError("a\0b \ud800")).cause == "a b ?"


def test_an_exception_without_words_is_named() -> None:
    assert translate(RuntimeError()).cause == "RuntimeError"


# --- Retry-After ---------------------------------------------------------------------------------
@pytest.mark.parametrize("sdk", [openai, anthropic, groq], ids=lambda sdk: sdk.__name__)
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        (" 7 ", 7),
        ("1.2", 2),
        ("0.1", 1),
        ("-5", 0),
        ("1e300", failures.RETRY_AFTER_MOST),
        ("inf", failures.RETRY_AFTER_MOST),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Fri, 32 Nov 2026 99:00:00 GMT", None),
        ("Fri, 20 Nov 1998 12:00:00 GMT", 0),
        ("Fri, 20 Nov 9998 12:00:00 GMT", failures.RETRY_AFTER_MOST),
    ],
)
def test_retry_after_is_whole_seconds_or_nothing(sdk: Any, value: str, seconds: int | None) -> None:
    error = translate(of_sdk(sdk, 429, {"Retry-After": value}))
    assert (error.code, error.retry_after) == (LIMITED, seconds)


def test_retry_after_may_be_a_date() -> None:
    at = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert translate(of_sdk(openai, 503, {"retry-after": at})).retry_after in {29, 30}


def test_retry_after_is_found_where_the_sdk_has_dropped_the_response() -> None:
    response = httpx.Response(429, headers={"Retry-After": "7"})
    error = ollama.ResponseError("busy", 429)
    request = httpx.Request("POST", "http://provider")
    error.__context__ = httpx.HTTPStatusError("429", request=request, response=response)
    assert translate(error).retry_after == 7


def test_every_code_has_its_sentence() -> None:
    for code in (AUTH, LIMITED, TIMEOUT, UNAVAILABLE, REFUSED, MALFORMED, UNKNOWN):
        error = failures.failure(code, "why", retry_after=3)
        assert isinstance(error, ProviderError)
        assert (error.status, error.code, error.cause, error.retry_after) == (502, code, "why", 3)
        assert error.message == failures.MESSAGES[code]
