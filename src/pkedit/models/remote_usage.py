"""What a remote model cost: requests, tokens, and dollars where the price is known."""

from collections.abc import Mapping
from dataclasses import dataclass

from pkedit.models.remote_answer import AnswerStatus, RemoteAnswer
from pkedit.models.remote_endpoint import PROVIDERS, Endpoint


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Dollars for so many tokens."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


# The providers' list prices of March 2024, by base URL and model. Other models have no price unless the user gives one.
LIST_PRICES: Mapping[tuple[str, str], Price] = {
    (PROVIDERS["openai"].base_url, "gpt-4-0613"): Price(30.0, 60.0),
    (PROVIDERS["anthropic"].base_url, "claude-3-sonnet-20240229"): Price(3.0, 15.0),
}


def list_price(endpoint: Endpoint) -> Price | None:
    """The list price of the model, where the table has one."""
    return LIST_PRICES.get((endpoint.base_url, endpoint.model))


@dataclass(frozen=True)
class Usage:
    """Totals of one `RemoteModel`. Tokens are those of requests sent; answers from the cache cost nothing.

    `sent` counts requests, not the client's retries of them; `failed` is the part of it without an answer.
    `unmetered` answers came without a token count: then tokens and cost are lower bounds.
    `damaged` cache entries were asked again.
    """

    sent: int = 0
    from_cache: int = 0
    failed: int = 0
    damaged: int = 0
    unmetered: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    price: Price | None = None

    @property
    def cost(self) -> float | None:
        """Dollars for the tokens, or None without a price."""
        return None if self.price is None else self.price.of(self.prompt_tokens, self.completion_tokens)

    def with_sent(self, answer: RemoteAnswer) -> "Usage":
        """The totals after one more request."""
        failed = answer.status is AnswerStatus.FAILED
        metered = answer.prompt_tokens is not None and answer.completion_tokens is not None
        return Usage(
            sent=self.sent + 1,
            from_cache=self.from_cache,
            failed=self.failed + failed,
            damaged=self.damaged,
            unmetered=self.unmetered + (not metered and not failed),
            prompt_tokens=self.prompt_tokens + (answer.prompt_tokens or 0),
            completion_tokens=self.completion_tokens + (answer.completion_tokens or 0),
            price=self.price,
        )

    def describe(self) -> str:
        """One line for people: requests, tokens and cost."""
        parts = [f"{self.sent} requests sent", f"{self.from_cache} answers from the cache"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.damaged:
            parts.append(f"{self.damaged} damaged cache entries asked again")
        at_least = "at least " if self.unmetered else ""
        parts.append(f"{at_least}{self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens")
        parts.append("price unknown" if self.cost is None else f"{at_least}${self.cost:.4f}")
        return ", ".join(parts)
