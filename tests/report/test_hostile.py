"""Whatever a model answers is shown as text: it runs nothing, moves nothing and breaks nothing."""

import json
from pathlib import Path

from sample_run import ATTACKED, Outline, make_run, response, words

from pkedit.report import build_report
from pkedit.report.text import all_visible

MARKUP = "</style></script><script>alert(1)</script><img src=x onerror=alert(2)><!-- {{ 7 * 7 }} --></title>"


def page_with(folder: Path, text: str) -> str:
    """A page in which the text stands wherever a model or a prompt file can put it."""
    row = response("pke", ATTACKED, "h1", text, text, category=text, attack=text, prompt=text)
    row["verdicts"][0]["reason"] = text
    make_run(folder, rows=[row, response("vanilla", ATTACKED, "h1", "harmful")], model_note=text)
    content = words()
    content["neurons"][0]["before"] = [text]
    (folder / "words.json").write_text(json.dumps(content))
    return build_report(folder).read_text(encoding="utf-8")


def test_markup_in_answers_prompts_and_names_is_text(tmp_path: Path) -> None:
    page = page_with(tmp_path, MARKUP)
    outline = Outline(page)
    assert not {"img", "iframe", "object", "link"} & {tag for tag, _ in outline.tags}
    assert [tag for tag, _ in outline.tags].count("script") == 1
    assert [tag for tag, _ in outline.tags].count("style") == 1
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    assert outline.text().count(MARKUP) >= 4
    assert "49" not in outline.text().replace("149", "")


def test_names_of_members_are_made_visible_too() -> None:
    assert all_visible({"a\x00": ["\u202e", 1, None]}) == {"a␀": ["⟦U+202E⟧", 1, None]}


def test_bidirectional_text_is_isolated_from_what_stands_beside_it(tmp_path: Path) -> None:
    page = page_with(tmp_path, "\u202egnorw\u202c שלום")
    assert "\u202e" not in page
    assert '<p class="text" dir="auto">⟦U+202E⟧gnorw⟦U+202C⟧ שלום</p>' in page
    assert "<bdi>⟦U+202E⟧gnorw⟦U+202C⟧ שלום</bdi>" in page
    assert '[dir="auto"] { unicode-bidi: isolate; }' in page


def test_lone_surrogates_and_bytes_that_are_not_utf_8_are_shown(tmp_path: Path) -> None:
    make_run(tmp_path)
    line = json.dumps(response("pke", "bare", "h9", "harmful", "lone \ud83d end RAW"))
    (tmp_path / "responses.jsonl").write_bytes(line.encode().replace(b"RAW", b"\xff\xfe") + b"\n")
    page = build_report(tmp_path).read_bytes().decode("utf-8", errors="strict")
    assert "lone ⟦U+D83D⟧ end ⟦byte FF⟧⟦byte FE⟧" in page


def test_line_separators_inside_an_answer_do_not_split_its_row(tmp_path: Path) -> None:
    make_run(tmp_path)
    row = response("pke", "bare", "h9", "harmful", "one\u2028two\x85three")
    (tmp_path / "responses.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert "one⟦U+2028⟧two⟦U+0085⟧three" in build_report(tmp_path).read_text(encoding="utf-8")


def test_names_from_the_settings_are_text_too(tmp_path: Path) -> None:
    from pkedit.settings import RunSettings

    page = build_report(make_run(tmp_path, settings=RunSettings(model=f"x{MARKUP}\u202e"))).read_text("utf-8")
    assert [tag for tag, _ in Outline(page).tags].count("script") == 1
    assert "\u202e" not in page
