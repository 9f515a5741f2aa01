"""A user message as token ids, in the chat template of a tokenizer: the same for every engine that is asked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pkedit.errors import ChatTemplateError


def templated_ids(tokenizer: Any, text: str, *, name: str) -> list[int]:
    """Token ids of a user message in the chat template, up to where the answer begins; one BOS at most.

    Args:
        tokenizer: of the model.
        text: the message.
        name: of the model, for the error.

    Raises:
        ChatTemplateError: the tokenizer has no chat template.
    """
    return dialogue_ids(tokenizer, [{"role": "user", "content": text}], name=name)


def dialogue_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, name: str) -> list[int]:
    """The same of a conversation of several messages, each with its `role` and `content`."""
    if not tokenizer.chat_template:
        raise ChatTemplateError(f"{name} has no chat template; give one with --chat-template FILE.jinja")
    rendered = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    # The template writes the BOS itself: a second one changes what the model computes.
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def read_template(path: Path) -> str:
    """A chat template from its file.

    Raises:
        ChatTemplateError: there is none.
    """
    if not path.is_file():
        raise ChatTemplateError(f"{path}: no such chat template file; check --chat-template")
    return path.read_text(encoding="utf-8")
