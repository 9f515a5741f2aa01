"""A small OpenAI-compatible server on loopback for tests: it echoes, or passes on to a real server, and injects faults.

`with FakeOpenAI(faults={"a": [Fault.ERROR]}) as server:` answers the first attempt at prompt "a" with a 500, the next
ones well. Given `upstream`, well means what the real server there answers.
"""

import json
import socket
import ssl
import struct
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

# Every client reads the certificates of all authorities, which takes a tenth of a second: once is enough here.
ssl.create_default_context = cache(ssl.create_default_context)

RETRY_AFTER = 0.3
SLOW_SECONDS = 1.6


class Fault(Enum):
    """What can go wrong with one attempt."""

    RATE_LIMIT = auto()
    ERROR = auto()
    SLOW = auto()
    CUT = auto()
    RESET = auto()
    MALFORMED = auto()
    NOT_A_COMPLETION = auto()
    PAGE = auto()
    FILTERED = auto()
    FILTERED_PROMPT = auto()
    INVALID_PROMPT = auto()
    REFUSAL = auto()
    NO_TEXT = auto()
    TOO_LONG = auto()
    UNSUPPORTED = auto()
    WRONG_KEY = auto()
    FORBIDDEN = auto()
    NO_MODEL = auto()


# Status, code and message of faults that are errors of the API. The last two quote the key, as real ones do.
ERRORS = {
    Fault.RATE_LIMIT: (429, "rate_limit_exceeded", "slow down"),
    Fault.ERROR: (500, "server_error", "overloaded"),
    Fault.FILTERED_PROMPT: (400, "content_filter", "filtered due to our content management policy"),
    Fault.INVALID_PROMPT: (400, "invalid_prompt", "your prompt was flagged as violating our usage policy"),
    Fault.TOO_LONG: (400, "context_length_exceeded", "too many tokens"),
    Fault.UNSUPPORTED: (400, "unsupported_value", "temperature does not support 0"),
    Fault.NO_MODEL: (404, "model_not_found", "no such model"),
    Fault.WRONG_KEY: (401, "invalid_api_key", "Incorrect API key provided: {key}"),
    Fault.FORBIDDEN: (403, "forbidden", "{key} may not use this model"),
}
BODIES = {
    Fault.MALFORMED: ("application/json", b'{"choices": [{"message": {"content": "hal'),
    Fault.NOT_A_COMPLETION: ("application/json", b'{"choices": [{"message": {"content": "half"}}]}'),
    Fault.PAGE: ("text/html", b"<html>It works!</html>"),
}


@dataclass(frozen=True)
class Seen:
    """One attempt that reached the server."""

    prompt: str
    body: Mapping[str, Any]
    key: str
    at: float
    path: str


def completion(text: str | None, *, finish: str = "stop", refusal: str | None = None) -> dict[str, Any]:
    """A chat completion that counts three prompt tokens and five of the answer."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return {
        "id": "fake",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    }


class FakeOpenAI:
    """The server, up inside a `with` block.

    Args:
        faults: prompt → what happens to its first, second, ... attempt; later ones are answered.
        every: what happens to every attempt without a fault of its own.
        answer: prompt → answer; an echo by default.
        delay: seconds before each answer.
        upstream: base URL of a real server that answers instead.
    """

    def __init__(
        self,
        *,
        faults: Mapping[str, Sequence[Fault]] | None = None,
        every: Fault | None = None,
        answer: Callable[[str], str] = lambda prompt: f"echo: {prompt}",
        delay: float = 0.0,
        upstream: str | None = None,
    ) -> None:
        self.faults = {prompt: list(ones) for prompt, ones in (faults or {}).items()}
        self.every = every
        self.answer = answer
        self.delay = delay
        self.upstream = upstream
        self.seen: list[Seen] = []
        self.answered: Counter[str] = Counter()
        self.at_once = 0
        self.most_at_once = 0
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        # Where a broken connection says nothing of it, a client waits half a second before it asks again.
        self._hurry = patch("openai._base_client.INITIAL_RETRY_DELAY", 0.01)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def attempts(self, prompt: str) -> int:
        """How often the prompt reached the server."""
        return sum(one.prompt == prompt for one in self.seen)

    def next_fault(self, seen: Seen) -> Fault | None:
        """Notes an attempt and says what is to happen to it."""
        with self.lock:
            self.seen.append(seen)
            own = self.faults.get(seen.prompt)
            return own.pop(0) if own else self.every

    def __enter__(self) -> Self:
        self._hurry.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._hurry.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up here on purpose."""


def _handler(server: FakeOpenAI) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body are sent apart: the body would wait 40 ms for the head to be acknowledged.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            key = self.headers["Authorization"].removeprefix("Bearer ")
            prompt = body["messages"][-1]["content"]
            with server.lock:
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                fault = server.next_fault(Seen(prompt, body, key, time.monotonic(), self.path))
                self.respond(prompt, body, key, fault)
            finally:
                with server.lock:
                    server.at_once -= 1

        def respond(self, prompt: str, body: dict[str, Any], key: str, fault: Fault | None) -> None:
            if fault is Fault.SLOW:
                time.sleep(SLOW_SECONDS)
                self.close_connection = True
            elif fault is Fault.CUT or fault is Fault.RESET:
                self.break_off(reset=fault is Fault.RESET)
            elif fault in ERRORS:
                status, code, message = ERRORS[fault]
                headers = {"Retry-After": str(RETRY_AFTER)} if fault is Fault.RATE_LIMIT else {"retry-after-ms": "10"}
                error = {"error": {"message": message.format(key=key), "code": code, "type": "an_error"}}
                self.send(status, json.dumps(error).encode(), headers=headers)
            elif fault in BODIES:
                kind, content = BODIES[fault]
                self.send(200, content, kind=kind)
            elif fault is Fault.FILTERED:
                self.send(200, json.dumps(completion("I will", finish="content_filter")).encode())
            elif fault is Fault.REFUSAL:
                self.send(200, json.dumps(completion(None, refusal="I can't help with that.")).encode())
            elif fault is Fault.NO_TEXT:
                self.send(200, json.dumps(completion(None, finish="length")).encode())
            else:
                self.succeed(prompt, body)

        def succeed(self, prompt: str, body: dict[str, Any]) -> None:
            time.sleep(server.delay)
            if server.upstream is None:
                content = json.dumps(completion(server.answer(prompt))).encode()
            else:
                content = _forward(server.upstream, body)
            with server.lock:
                server.answered[prompt] += 1
            self.send(200, content)

        def send(
            self,
            status: int,
            content: bytes,
            *,
            kind: str = "application/json",
            headers: Mapping[str, str] | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def break_off(self, *, reset: bool) -> None:
            """Half of a response, then the end of the connection: a clean one, or a reset."""
            content = json.dumps(completion("half")).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if reset:
                # A linger time of zero makes the close a reset.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the tests read `seen`."""

    return Handler


def _forward(upstream: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(
        f"{upstream}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        content: bytes = response.read()
    return content
