"""Tokens as a reader sees them."""

from typing import Any

REPLACEMENT = "\ufffd"


def token_text(tokenizer: Any, token: int) -> str:
    """The text of a token inside a sentence, with the space that it begins with, if it does.

    What cannot be printed is escaped (a line break is \\n), and a token that is only a part of a character is shown as
    the tokenizer's vocabulary has it.
    """
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    # Some tokenizers drop the space of a token that comes first; behind itself it is not the first.
    alone, twice = (tokenizer.decode([token] * count, **options) for count in (1, 2))
    text = twice[len(alone) :] if twice.startswith(alone) else alone
    if not text or REPLACEMENT in text:
        text = str(tokenizer.convert_ids_to_tokens(token))
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
