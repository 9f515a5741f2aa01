"""Text that steers, hides or reorders is named, wherever it is shown: in the report, a terminal and the web page."""

import unicodedata

import pytest

from pkedit.visible import KEPT, visible


@pytest.mark.parametrize(
    ("hidden", "shown"),
    [
        ("\x00\x1b[31m\x7f", "␀␛[31m␡"),
        ("\x85\x9b", "⟦U+0085⟧⟦U+009B⟧"),
        ("\u202eevil\u2066\u200f", "⟦U+202E⟧evil⟦U+2066⟧⟦U+200F⟧"),
        ("a\u200bb\ufeff", "a⟦U+200B⟧b⟦U+FEFF⟧"),
        ("\u2028\u2029", "⟦U+2028⟧⟦U+2029⟧"),
        ("\ud800", "⟦U+D800⟧"),
        ("\udc80", "⟦byte 80⟧"),
        ("one\r\ntwo\rthree", "one\ntwo␍three"),
        ("👩\u200d🔬\ttab\n", "👩\u200d🔬\ttab\n"),
        ("שלום مرحبا", "שלום مرحبا"),
    ],
    ids=["control", "c1", "bidi", "zero width", "separators", "surrogate", "byte", "returns", "kept", "right to left"],
)
def test_characters_that_cannot_be_seen_are_named(hidden: str, shown: str) -> None:
    assert visible(hidden) == shown
    assert visible(shown) == shown
    visible(hidden).encode("utf-8")


def test_every_character_that_comes_out_can_be_seen_and_written() -> None:
    for code in (*range(0x3000), *range(0xD7F0, 0xE010), *range(0xFDC0, 0xFE10), *range(0xE0000, 0xE0080)):
        for one in visible(chr(code)):
            assert one in KEPT or unicodedata.category(one)[0] != "C"
            one.encode("utf-8")
