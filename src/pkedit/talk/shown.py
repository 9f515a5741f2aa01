"""Text of a model or a user as it may be shown: nothing in it steers a terminal or reorders what is read."""

import unicodedata

# Letters of many scripts and emoji are joined by these; alone they do nothing.
JOINERS = {"\u200c", "\u200d"}
CONTROL_PICTURES = 0x2400


def shown(text: str) -> str:
    """The text with every control character visible.

    ESC becomes ␛, other characters that steer (C0 and C1 controls, bidirectional marks, separators, lone surrogates)
    become ␛'s kin or �. New lines and tabs stay; a carriage return before a new line goes.
    """
    return "".join(_visible(character) for character in text.replace("\r\n", "\n"))


def _visible(character: str) -> str:
    if character in "\n\t" or character in JOINERS:
        return character
    if character < " ":
        return chr(CONTROL_PICTURES + ord(character))
    if character == "\x7f":
        return "␡"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return "�"
    return character
