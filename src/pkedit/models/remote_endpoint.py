"""Where a remote model lives: from what the user wrote to a base URL, a model name and the variable with the key.

The key itself is read from the environment when requests are sent, and is kept in no value of this package.
"""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from pkedit.errors import PkeditError

# What is sent as the key to a server of one's own that asks for none.
NO_KEY = "none"


class RemoteModelError(PkeditError):
    """A remote model cannot be asked: no key, a wrong one, no such model, or nobody answers."""


@dataclass(frozen=True)
class Provider:
    """A service known by name: its OpenAI-compatible endpoint and the variable that holds its key."""

    base_url: str
    key_variable: str


# Anthropic's compatible endpoint: https://platform.claude.com/docs/en/api/openai-sdk
PROVIDERS: Mapping[str, Provider] = {
    "openai": Provider("https://api.openai.com/v1/", "OPENAI_API_KEY"),
    "anthropic": Provider("https://api.anthropic.com/v1/", "ANTHROPIC_API_KEY"),
}


@dataclass(frozen=True)
class Endpoint:
    """A model of an OpenAI-compatible endpoint. `name` is what the user asked for."""

    name: str
    model: str
    base_url: str
    key_variable: str

    @property
    def is_local(self) -> bool:
        """Whether the address is on this machine or in a private network, where servers often need no key."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_private
        except ValueError:
            return host == "localhost" or host.endswith((".localhost", ".local"))

    @property
    def limit_name(self) -> str:
        """The parameter that bounds an answer's tokens: OpenAI's newer models refuse the one all others know."""
        return "max_completion_tokens" if self.base_url == PROVIDERS["openai"].base_url else "max_tokens"

    def key(self) -> str:
        """The key from the environment, or `NO_KEY` for a local server without one.

        Raises:
            RemoteModelError: the variable is not set and the endpoint is not local, or it holds what no key can be.
        """
        key = os.environ.get(self.key_variable, "").strip()
        # Such a key cannot be sent, and the errors of the layers below would quote it.
        if not key.isascii() or not key.isprintable():
            raise RemoteModelError(
                f"the environment variable {self.key_variable} holds characters that no key has; set it again"
            )
        if key or self.is_local:
            return key or NO_KEY
        raise RemoteModelError(f"{self.name} needs a key: set the environment variable {self.key_variable}")


def is_remote(spec: str, api_base: str | None = None) -> bool:
    """Whether `spec` names a remote model: `openai:MODEL`, `anthropic:MODEL`, or anything beside an `api_base`."""
    return api_base is not None or spec.partition(":")[0] in PROVIDERS


def check_address(url: str | None) -> None:
    """Finds out now whether an endpoint's URL may be written down.

    Raises:
        RemoteModelError: it is no URL, or carries credentials.
    """
    if url is not None:
        _checked(url)


def endpoint_of(spec: str, api_base: str | None = None) -> Endpoint:
    """The endpoint that a spec means.

    Args:
        spec: `openai:MODEL` or `anthropic:MODEL`; beside an `api_base` any model name, which may hold colons.
        api_base: URL of another OpenAI-compatible endpoint, such as http://localhost:8000/v1.

    Raises:
        RemoteModelError: no known provider and no URL, no model name, or a URL that is none or carries credentials.
    """
    prefix, _, rest = spec.partition(":")
    provider = PROVIDERS.get(prefix)
    model = rest if provider is not None else spec
    if not model:
        raise RemoteModelError(f"{spec!r} names no model; write for example openai:gpt-4-0613")
    if provider is None and api_base is None:
        known = " or ".join(f"{name}:MODEL" for name in PROVIDERS)
        raise RemoteModelError(f"{spec!r} is no remote model; write {known}, or give the endpoint's URL (--api-base)")
    key_variable = provider.key_variable if provider is not None else PROVIDERS["openai"].key_variable
    base_url = provider.base_url if api_base is None and provider is not None else _checked(api_base or "")
    return Endpoint(name=spec, model=model, base_url=base_url, key_variable=key_variable)


def _checked(url: str) -> str:
    """The URL with one slash at its end, so that one endpoint has one name in the cache."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RemoteModelError("--api-base must be a URL such as http://localhost:8000/v1")
    # The URL is written into cache and report; a key in it would be too.
    if parts.username or parts.password or parts.query or parts.fragment:
        raise RemoteModelError(
            "--api-base must not hold a user name, password or query: keys come from the environment"
        )
    return url.rstrip("/") + "/"
