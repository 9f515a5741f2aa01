"""Text of models, users and files, made fit to be shown: what cannot be seen, or would move other text or steer a
terminal, is named instead."""

import unicodedata

# Joiners shape the letters of many scripts, and emoji.
KEPT = frozenset("\n\t\u200c\u200d")
# Control, format (bidirectional marks and zero-width characters among them), surrogate, private, unassigned, and the
# separators of lines and paragraphs.
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str) -> str:
    """The text with every unseen character named, as `␀`, `⟦U+202E⟧` or, for a byte that is not UTF-8, `⟦byte 80⟧`.

    What comes out can be written as UTF-8, and is unchanged by a second call. It is text still: escape it for HTML.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one in KEPT or unicodedata.category(one) not in UNSEEN else _name(one)
        for one in text.replace("\r\n", "\n")
    )


def _name(one: str) -> str:
    code = ord(one)
    if code < 0x20 or code == 0x7F:
        return chr(0x2421 if code == 0x7F else 0x2400 + code)
    if 0xDC80 <= code <= 0xDCFF:
        # How Python keeps a byte that could not be decoded.
        return f"⟦byte {code - 0xDC00:02X}⟧"
    return f"⟦U+{code:04X}⟧"
