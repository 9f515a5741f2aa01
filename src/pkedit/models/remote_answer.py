"""What a provider's response or refusal to respond means: an answer, its filter at work, a failure, or no way on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    import openai

# How providers say that their filter withheld an answer (finish reasons), or stopped a prompt (error codes and
# phrases). Azure puts its own code into `innererror`; OpenAI's `invalid_prompt` also means a malformed prompt, so its
# message decides. "Your account was flagged" is no filter: phrases name what was.
FILTER_FINISHES = {"content_filter", "refusal", "safety"}
FILTER_CODES = {"content_filter", "content_policy_violation", "moderation_blocked", "responsibleaipolicyviolation"}
FILTER_PHRASES = (
    "prompt was flagged",
    "input was flagged",
    "content management policy",
    "content filtering policy",
    "contentpolicyviolation",
)
INVALID_PROMPT_PHRASES = ("flagged", "usage polic", "for safety reasons")
NO_MODEL_CODES = {"model_not_found"}
UNSUPPORTED_CODES = {"unsupported_parameter", "unsupported_value"}
# Payment, rate or quota, and the key: what stands between the provider and every request alike.
ACCOUNT_STATUSES = {401, 402, 403, 429}


class AnswerStatus(StrEnum):
    """What became of a request: answered, refused by the provider's content filter, or no usable response."""

    ANSWERED = "answered"
    FILTERED = "filtered"
    FAILED = "failed"


@dataclass(frozen=True)
class RemoteAnswer:
    """One response. `reason` says why it is filtered or failed; tokens are None where the provider gives no count."""

    text: str
    status: AnswerStatus
    reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Failure:
    """Why a request has no answer.

    `stops`: what is wrong with key, model or address, for every request alike; None for a failure of this one.
    `outage`: the provider or the way to it failed, rather than this request.
    """

    reason: str
    stops: str | None = None
    outage: bool = False


class _Message(BaseModel):
    model_config = ConfigDict(strict=True)
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    model_config = ConfigDict(strict=True)
    message: _Message
    finish_reason: str


class _Tokens(BaseModel):
    model_config = ConfigDict(strict=True)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(BaseModel):
    model_config = ConfigDict(strict=True)
    choices: list[_Choice]
    usage: _Tokens | None = None


def read_completion(body: str) -> RemoteAnswer | Failure:
    """The answer in a chat completion's JSON. A cut or malformed one is a failure, one without text `FAILED`."""
    try:
        completion = _Completion.model_validate(json.loads(body))
    except (json.JSONDecodeError, RecursionError):
        return Failure("the response is no JSON", outage=True)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        return Failure(f"the response is no chat completion: {place or 'its top level'}", outage=True)
    tokens = completion.usage
    counts = (None, None) if tokens is None else (tokens.prompt_tokens, tokens.completion_tokens)
    if len(completion.choices) != 1:
        return RemoteAnswer("", AnswerStatus.FAILED, f"{len(completion.choices)} choices instead of one", *counts)
    choice = completion.choices[0]
    text = choice.message.content
    if choice.message.refusal:
        return RemoteAnswer(choice.message.refusal, AnswerStatus.FILTERED, "the provider sent a refusal", *counts)
    if choice.finish_reason in FILTER_FINISHES:
        reason = f"the provider's content filter ended the answer ({choice.finish_reason})"
        return RemoteAnswer(text or "", AnswerStatus.FILTERED, reason, *counts)
    if text is None or choice.finish_reason == "error":
        reason = f"no text in the response (finish reason {choice.finish_reason})"
        return RemoteAnswer("", AnswerStatus.FAILED, reason, *counts)
    return RemoteAnswer(text.strip(), AnswerStatus.ANSWERED, "", *counts)


def read_error(error: "openai.APIError", *, model: str, base_url: str, key_variable: str) -> RemoteAnswer | Failure:
    """What an error of the client means, after its retries: a filtered answer, or a failure.

    The provider's text for 401 and 403 is left out: it may quote the key.
    """
    status = getattr(error, "status_code", None)
    if status is None:
        cause = type(error.__cause__).__name__
        # Nobody at that address: no request can succeed.
        unreachable = cause in ("ConnectError", "ConnectTimeout")
        stops = f"cannot reach {base_url}: is the address right and the server running?" if unreachable else None
        what = "timed out" if "Timeout" in type(error).__name__ else "connection failed"
        return Failure(f"{what} ({cause})", stops=stops, outage=True)
    code, message = _code(error), _message(error)
    if status in (400, 403, 451) and _is_filter(code, error.body, message):
        reason = f"the provider's content filter stopped the prompt (HTTP {status}, {code or 'no code'})"
        return RemoteAnswer("", AnswerStatus.FILTERED, reason)
    if status in (401, 403):
        stops = f"{base_url} refused the key for {model} (HTTP {status}): check the environment variable {key_variable}"
        return Failure(f"HTTP {status}", stops=stops, outage=True)
    if status == 404 or code in NO_MODEL_CODES:
        return Failure(f"HTTP {status}", stops=f"{base_url} has no model {model!r} (HTTP {status}): check its name")
    reason = f"HTTP {status}" + (f": {message}" if message else "")
    stops = f"{model} at {base_url} refuses a parameter: {reason}" if code in UNSUPPORTED_CODES else None
    return Failure(reason, stops=stops, outage=status in ACCOUNT_STATUSES or status >= 500)


def _code(error: "openai.APIError") -> str:
    return str(error.code or error.type or "").lower()


def _message(error: "openai.APIError") -> str:
    text = error.body.get("message") if isinstance(error.body, Mapping) else error.body
    return " ".join(text.split()) if isinstance(text, str) else ""


def _is_filter(code: str, body: Any, message: str) -> bool:
    inner = body.get("innererror") if isinstance(body, Mapping) else None
    inner_code = str(inner.get("code", "")).lower() if isinstance(inner, Mapping) else ""
    if code in FILTER_CODES or inner_code in FILTER_CODES:
        return True
    phrases = FILTER_PHRASES + (INVALID_PROMPT_PHRASES if code == "invalid_prompt" else ())
    return any(phrase in message.lower() for phrase in phrases)
