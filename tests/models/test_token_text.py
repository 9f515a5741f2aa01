"""Tokens are shown as they stand in a text, printable, and never as nothing."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pkedit.models.token_text import token_text


def byte_level() -> Any:
    """Like GPT-2's: a space is a part of the token that follows it, and characters are cut into bytes."""
    words = ["Sure", "ĠSure", "Ċ", "âĢ", "\u00e2\u0122\u00ae"]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def sentence_pieces() -> Any:
    """Like Llama 2's: the space that a text begins with is dropped."""
    words = ["Sure", "▁Sure", "<0xE2>"]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize(
    ("tokenizer", "shown"),
    [
        # The last one turns the writing direction round.
        (byte_level(), ["Sure", " Sure", "\\n", "âĢ", "\\u202e"]),
        (sentence_pieces(), ["Sure", " Sure", "<0xE2>"]),
    ],
)
def test_a_token_is_shown_with_its_space_and_without_what_cannot_be_printed(tokenizer: Any, shown: list[str]) -> None:
    assert [token_text(tokenizer, token) for token in range(len(shown))] == shown
