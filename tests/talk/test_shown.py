"""What a model says cannot steer what shows it."""

import unicodedata

from pkedit.talk.shown import shown


def test_control_characters_become_visible() -> None:
    assert shown("\x1b[2J\x07\x08\x7f\x9b31m") == "␛[2J␇␈␡�31m"


def test_bidirectional_marks_and_lone_surrogates_become_visible() -> None:
    assert shown("a\u202eb\u2066c\ud800\u2028") == "a�b�c��"


def test_ordinary_text_stays_as_it_is() -> None:
    text = "Zeile\n\tß é 漢字 👩\u200d🚀 שלום"
    assert shown(text) == text


def test_a_carriage_return_cannot_overwrite_a_line() -> None:
    assert shown("one\r\ntwo\rthree") == "one\ntwo␍three"


def test_nothing_that_steers_is_left_of_all_scripts() -> None:
    text = shown("".join(map(chr, [*range(0x14000), *range(0xE0000, 0xE0200)])))
    left = {character for character in text if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert left == {"\n", "\t", "\u200c", "\u200d"}
    text.encode()
