"""A user message as token ids, in the chat template of a tokenizer: the same for every engine that is asked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pkedit.errors import ChatTemplateError
from pkedit.models.rendering import render

# The longest of known models take about 20 KB.
LARGEST = 1 << 20


def templated_ids(tokenizer: Any, text: str, *, name: str) -> list[int]:
    """Token ids of a user message in the chat template, up to where the answer begins; one BOS at most.

    Args:
        tokenizer: of the model.
        text: the message.
        name: of the model, for the error.

    Raises:
        ChatTemplateError: the tokenizer has no chat template, or one that cannot be used (`rendering.py`).
    """
    return dialogue_ids(tokenizer, [{"role": "user", "content": text}], name=name)


def dialogue_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, name: str) -> list[int]:
    """The same of a conversation of several messages, each with its `role` and `content`."""
    if not tokenizer.chat_template:
        raise ChatTemplateError(f"{name} has no chat template; give one with --chat-template FILE.jinja")
    rendered = render(tokenizer, messages, name=name)
    # The template writes the BOS itself: a second one changes what the model computes.
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def read_template(path: Path) -> str:
    """A chat template from its file.

    Raises:
        ChatTemplateError: there is none, or it is no chat template.
    """
    if not path.is_file():
        raise ChatTemplateError(f"{path}: no such chat template file; check --chat-template")
    if path.stat().st_size > LARGEST:
        raise ChatTemplateError(
            f"{path}: more than {LARGEST >> 20} MiB, which no chat template has; check --chat-template"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ChatTemplateError(f"{path}: not a text file ({error}); check --chat-template") from None
    # An export carries the template along: it must not be any other file of this machine that a run folder names.
    if "messages" not in text or "{" not in text:
        raise ChatTemplateError(f"{path}: not a chat template, for it shows no messages; check --chat-template")
    return text
