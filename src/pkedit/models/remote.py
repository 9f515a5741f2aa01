"""A chat model behind an OpenAI-compatible endpoint: prompts in, answers with their status out, in order.

Every answer is on disk before it counts, so a killed run goes on where it stopped and a second run sends nothing.
"""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pkedit.models.remote_answer import AnswerStatus, Failure, RemoteAnswer, read_completion, read_error
from pkedit.models.remote_cache import AnswerCache, Cached, Request
from pkedit.models.remote_endpoint import RemoteModelError, endpoint_of, is_remote
from pkedit.models.remote_usage import Price, Usage, list_price

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["AnswerStatus", "Price", "RemoteAnswer", "RemoteModel", "RemoteModelError", "Usage", "is_remote"]

# So many requests in a row that fail for the provider's or the network's sake end the run: each has used up its
# retries, and thousands more would take hours to say the same.
OUTAGE_LIMIT = 16
# Shorter "keys" are dummies such as "none" or "EMPTY", and ordinary words in an answer.
SHORTEST_SECRET = 16
REASON_CHARACTERS = 300


class RemoteModel:
    """A model that is asked over the network. The key is read from the environment whenever requests are sent.

    Args:
        spec: `openai:MODEL`, `anthropic:MODEL`, or any model name beside an `api_base`.
        api_base: URL of another OpenAI-compatible endpoint.
        cache: folder of answers; None keeps none.
        concurrency: requests under way at once.
        max_retries: how often the client repeats a request that met 408, 409, 429, 5xx or a broken connection.
        timeout: seconds without a byte from the server after which an attempt is given up.
        temperature: 0 for the likeliest tokens; None leaves it out, for models that accept no value.
        price: dollars per million tokens; the list price where there is one and none is given.

    Raises:
        RemoteModelError: `spec` and `api_base` name no endpoint.
    """

    def __init__(
        self,
        spec: str,
        *,
        api_base: str | None = None,
        cache: str | Path | None = None,
        concurrency: int = 8,
        max_retries: int = 5,
        timeout: float = 120.0,
        temperature: float | None = 0.0,
        price: Price | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        self.endpoint = endpoint_of(spec, api_base)
        self.name = spec
        self.cache = None if cache is None else AnswerCache(cache)
        self.concurrency = concurrency
        self.max_retries = max_retries
        self.timeout = timeout
        self.temperature = temperature
        self.usage = Usage(price=price if price is not None else list_price(self.endpoint))
        self._reached = False
        self._outage = 0

    def __repr__(self) -> str:
        return f"RemoteModel({self.name!r} at {self.endpoint.base_url})"

    def ask(
        self, prompts: Sequence[str], *, max_new_tokens: int, progress: Callable[[int, int], None] | None = None
    ) -> list[RemoteAnswer]:
        """Answers to user messages, in their order. Equal prompts are sent once and count once.

        Args:
            prompts: one user message each, without a system message.
            max_new_tokens: answers are cut there.
            progress: called with prompts done and in all.

        Raises:
            RemoteModelError: no key or a wrong one, no such model, nobody at the address, a lasting outage, or a
                cache folder that cannot be used. Answers received until then are in the cache.
        """
        requests = [self._request(prompt, max_new_tokens) for prompt in prompts]
        distinct = {request.digest: request for request in requests}
        counts = Counter(request.digest for request in requests)
        answers: dict[str, RemoteAnswer] = {}
        done = 0
        # Closed at once when `progress` raises, so that nothing more is sent.
        with closing(self._answers(list(distinct.values()))) as arriving:
            for request, answer in arriving:
                answers[request.digest] = answer
                done += counts[request.digest]
                if progress is not None:
                    progress(done, len(prompts))
        return [answers[request.digest] for request in requests]

    def _request(self, prompt: str, max_new_tokens: int) -> Request:
        parameters: dict[str, float | int] = {self.endpoint.limit_name: max_new_tokens}
        if self.temperature is not None:
            parameters["temperature"] = self.temperature
        messages = ({"role": "user", "content": prompt},)
        return Request(self.endpoint.base_url, self.endpoint.model, messages, parameters)

    def _answers(self, requests: Sequence[Request]) -> Generator[tuple[Request, RemoteAnswer]]:
        """Each request with its answer: from the cache first, then as they come in."""
        missing = []
        for request in requests:
            cached = Cached(None) if self.cache is None else self.cache.find(request)
            if cached.answer is None:
                self.usage = replace(self.usage, damaged=self.usage.damaged + cached.damaged)
                missing.append(request)
            else:
                self.usage = replace(self.usage, from_cache=self.usage.from_cache + 1)
                yield request, cached.answer
        if missing:
            yield from self._sent(missing)

    def _sent(self, requests: Sequence[Request]) -> Generator[tuple[Request, RemoteAnswer]]:
        """Answers over the network. The first request goes alone: a wrong key or name then costs one request."""
        key = self.endpoint.key()
        with ExitStack() as stack:
            client = stack.enter_context(self._client(key))
            pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="remote-model")
            # On an error or Ctrl-C no further request starts; those under way end and are kept.
            stack.callback(pool.shutdown, cancel_futures=True)
            alone = 0 if self._reached else 1
            for group in (requests[:alone], requests[alone:]):
                futures = {pool.submit(self._send, client, request, key): request for request in group}
                for future in as_completed(futures):
                    yield futures[future], self._counted(future.result())

    def _client(self, key: str) -> "OpenAI":
        from openai import OpenAI

        return OpenAI(api_key=key, base_url=self.endpoint.base_url, max_retries=self.max_retries, timeout=self.timeout)

    def _send(self, client: "OpenAI", request: Request, key: str) -> RemoteAnswer | Failure:
        """One request with the client's retries; a usable answer is in the cache when this returns."""
        from openai import APIError

        body = request.as_json()
        try:
            response = client.chat.completions.with_raw_response.create(
                model=body["model"], messages=body["messages"], **body["parameters"]
            )
            outcome = read_completion(response.text)
        except APIError as error:
            where = self.endpoint
            outcome = read_error(error, model=where.model, base_url=where.base_url, key_variable=where.key_variable)
        except UnicodeEncodeError as error:
            outcome = Failure(f"the prompt cannot be sent: {error.reason}")
        outcome = _presentable(outcome, key)
        if self.cache is not None and isinstance(outcome, RemoteAnswer) and outcome.status is not AnswerStatus.FAILED:
            self.cache.store(request, outcome)
        return outcome

    def _counted(self, outcome: RemoteAnswer | Failure) -> RemoteAnswer:
        """The outcome as an answer, counted.

        Raises:
            RemoteModelError: no request can succeed, or `OUTAGE_LIMIT` in a row have met an outage.
        """
        if isinstance(outcome, RemoteAnswer):
            self.usage = self.usage.with_sent(outcome)
            self._reached, self._outage = True, 0
            return outcome
        answer = RemoteAnswer("", AnswerStatus.FAILED, outcome.reason)
        self.usage = self.usage.with_sent(answer)
        # Once the model has answered, key and name are right: a later refusal concerns that request.
        if outcome.stops is not None and not self._reached:
            raise RemoteModelError(outcome.stops)
        self._outage = self._outage + 1 if outcome.outage else 0
        if self._outage >= OUTAGE_LIMIT:
            kept = "; run again to go on, answers so far are in the cache" if self.cache is not None else ""
            raise RemoteModelError(f"{self.name}: {self._outage} requests in a row failed ({outcome.reason}){kept}")
        return answer


def _presentable(outcome: RemoteAnswer | Failure, key: str) -> RemoteAnswer | Failure:
    """The outcome without the key, which a proxy may echo, and with reasons of readable length."""

    def without_key(text: str) -> str:
        return text.replace(key, "[key]") if len(key) >= SHORTEST_SECRET else text

    # Shortened last: half a key would not be found.
    reason = without_key(outcome.reason)[:REASON_CHARACTERS]
    if isinstance(outcome, RemoteAnswer):
        return replace(outcome, text=without_key(outcome.text), reason=reason)
    stops = None if outcome.stops is None else without_key(outcome.stops)[:REASON_CHARACTERS]
    return replace(outcome, reason=reason, stops=stops)
