"""Renders a tokenizer's chat template as transformers does, and stops one that loops, floods or breaks out.

The template runs in a process beside (`template_worker.py`) with limits on time, memory and output. One process serves
all tokenizers; it is started at the first template, and again after one that had to be stopped.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from pkedit.errors import ChatTemplateError, first_line

# Of the processor's, so that a busy machine stops nothing. A real template takes about a tenth of a millisecond.
SECONDS = 5.0
MEMORY = 2 << 30
CHARACTERS = 4_000_000
WORKER = Path(__file__).with_name("template_worker.py")
# Of this process's environment: what Python needs to start. Keys and tokens stay here.
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "PYTHONHOME", "VIRTUAL_ENV")


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    name: str,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
) -> str:
    """The messages as text in the chat template of a tokenizer.

    Args:
        tokenizer: of transformers, with a chat template.
        messages: each with its `role` and `content`.
        name: of the model, for the error.
        add_generation_prompt: whether the opening of an answer follows.
        continue_final_message: whether the last message is left open.

    Raises:
        ChatTemplateError: the template is broken, reaches for what it must not, or takes too long, too much memory or
            too much room.
    """
    if not _is_jinja(tokenizer):
        rendered = tokenizer.apply_chat_template(
            list(messages),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tokenize=False,
        )
        return str(rendered)
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise ChatTemplateError(f"{name}: {first_line(error)}; give one with --chat-template FILE.jinja") from None
    request = {
        "template": template,
        "messages": [dict(message) for message in messages],
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": continue_final_message,
        "names": tokenizer.special_tokens_map,
    }
    answered = _renderer().ask(request)
    if "text" not in answered:
        raise ChatTemplateError(
            f"the chat template of {name} cannot be used: {' '.join(answered['error'].split())}; "
            "give another with --chat-template FILE.jinja"
        )
    return answered["text"]


def _is_jinja(tokenizer: Any) -> bool:
    """Whether the template is a program; some tokenizers write the format themselves, in code that is installed."""
    own = getattr(type(tokenizer), "apply_chat_template", None)
    return own is PreTrainedTokenizerBase.apply_chat_template


class _Renderer:
    """The process beside, started when it is first asked. One request at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._turn = threading.Lock()

    def ask(self, request: Mapping[str, Any]) -> dict[str, str]:
        """The worker's answer, or that it was stopped."""
        line = json.dumps(request).encode() + b"\n"
        with self._turn:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
                answered = process.stdout.readline()
            except BrokenPipeError:
                answered = b""
            except BaseException:
                # An answer that nobody waited for would be taken for the next one's.
                self.close()
                raise
            if answered.endswith(b"\n"):
                return dict(json.loads(answered))
            code = process.wait()
            self.close()
            if code == -signal.SIGPROF:
                return {"error": f"it did not end within {SECONDS:g} seconds, and was stopped"}
            return {"error": f"the process that renders it ended with code {code}"}

    def close(self) -> None:
        """Ends the process, if there is one of ours."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(BrokenPipeError):  # what is left in its buffer has no reader any more
                    pipe.close()

    def _started(self) -> "subprocess.Popen[bytes]":
        # A forked process must not share its parent's pipes.
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            environment = {key: os.environ[key] for key in KEPT if key in os.environ}
            environment |= {
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            }
            self._process = subprocess.Popen(
                # -P: the folder of the script is no place to import from.
                [sys.executable, "-P", str(WORKER), str(SECONDS), str(MEMORY), str(CHARACTERS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            self._owner = os.getpid()
            atexit.register(self.close)
        return self._process


@cache
def _renderer() -> _Renderer:
    """One for this process: starting it takes half a second."""
    return _Renderer()
