"""SafeEdit's protocol on tiny random models: each case on its own, nothing left behind, nothing done twice."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import ValidationError
from rich.console import Console

from pkedit.edit.editor import EditResult
from pkedit.edit.instance import InstanceEditor
from pkedit.errors import NonFiniteLossError, PkeditError, PromptFileError, RunFolderError
from pkedit.evaluate.measure import Response, StoredVerdict
from pkedit.evaluate.stats import proportion
from pkedit.evaluate.text import ngram_entropy
from pkedit.judges.base import Judgement, Verdict
from pkedit.models.chat import ChatModel
from pkedit.prompts import ContrastPair, Demonstration, Kind, SafeEditCase, load_safeedit
from pkedit.run.safeedit import case as safeedit_case
from pkedit.run.safeedit import protocol
from pkedit.run.safeedit.case import case_suite, edit_case, sample_kept
from pkedit.run.safeedit.folder import CaseRow, SafeEditFolder
from pkedit.run.safeedit.protocol import draw, print_safeedit, run_safeedit
from pkedit.run.safeedit.settings import SafeEditRecord, SafeEditSettings
from pkedit.run.safeedit.table import averages, unjudged
from pkedit.safeedit_cli import register
from tiny import changed_weights, leftovers, make_chat, make_demonstrations, snapshot

SAMPLE = Path(__file__).parents[1] / "data" / "safeedit_sample.json"
CASES = load_safeedit(SAMPLE)
COLUMNS = ("DS", "DG_onlyQ", "DG_otherA", "DG_otherQ", "DG_otherAQ", "DG-Avg", "Fluency", "per edit")
GROUPS = ("ds", "dg_only_q", "dg_other_a", "dg_other_q", "dg_other_aq")


class Reads:
    """A judge that calls every answer refused, and remembers the prompts."""

    name, version, tells_refusals = "stub", "1", True

    def __init__(self, *, reads_question: bool = False) -> None:
        self.reads_question = reads_question
        self.prompts: list[str] = []

    def judge(self, prompts: Sequence[str], answers: Sequence[str], *, harmful_request: bool) -> list[Verdict]:
        self.prompts += prompts
        return [Verdict(Judgement.REFUSED if harmful_request else Judgement.BENIGN, "stub") for _ in answers]


def settings_for(method: str = "pke", **given: Any) -> SafeEditSettings:
    small = {
        "locate": {"pairs": 2, "neurons": 3, "tokens": 4, "first_layer": 0.0, "last_layer": 1.0},
        "edit": {"steps": 2, "safe_tokens": 4, "harmless_tokens": 4, "strength_tokens": 1},
    }
    content = {"file": str(SAMPLE), "method": method, "cases": 3, "kept": 3, "max_new_tokens": 4, "answer_tokens": 8}
    return SafeEditSettings.model_validate({**content, **small, **given})


@pytest.fixture
def chat() -> ChatModel:
    return make_chat("llama", max_position_embeddings=1024)


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]


def spied(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[Any, ...]]:
    """The arguments of every call of a function of `safeedit_case`, which goes on working."""
    calls: list[tuple[Any, ...]] = []
    original: Callable[..., Any] = getattr(safeedit_case, name)

    def spy(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(safeedit_case, name, spy)
    return calls


def response(case: str, group: str, judgement: str, *, answer: str = "one two three", arm: str = "pke") -> Response:
    return Response(arm, group, case, "any", None, "?", answer, (StoredVerdict("stub", "1", judgement, ""),))


@pytest.mark.parametrize(("method", "locating"), [("pke", "locate"), ("dinm", "toxic_layer")])
def test_every_case_is_located_anew_on_its_own_instance(
    tmp_path: Path, chat: ChatModel, monkeypatch: pytest.MonkeyPatch, method: str, locating: str
) -> None:
    calls = spied(monkeypatch, locating)
    run_safeedit(settings_for(method), tmp_path / "run", chat=chat, judges=[Reads()])
    drawn = draw(CASES, settings_for(method))
    assert [{pair.prompt.text for pair in pairs} for _, pairs, *_ in calls] == [
        {case.adversarial_prompt} for case in drawn
    ]


def test_ft_edits_its_fixed_layer_in_every_case(tmp_path: Path, chat: ChatModel) -> None:
    run_safeedit(settings_for("ft"), tmp_path / "run", chat=chat, judges=[Reads()])
    assert [row["layers"] for row in rows_in(tmp_path / "run")] == [[1]] * 3


@pytest.mark.parametrize("method", ["pke", "dinm", "ft"])
def test_an_edit_learns_from_the_instance_and_from_nothing_it_is_tested_with(
    chat: ChatModel, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    calls = spied(monkeypatch, "edit")
    case = CASES[0]
    kept = make_demonstrations(2)
    edit_case(chat, case, settings_for(method), kept)
    _, _, pairs, demonstrations, _ = calls[0]
    assert [(pair.prompt.text, pair.safe, pair.unsafe) for pair in pairs] == [
        (case.adversarial_prompt, case.safe_generation, case.unsafe_generation)
    ]
    own = (case.knowledge_prompt, case.knowledge_answer)
    others = [(one.prompt.text, one.answer) for one in kept] if method == "pke" else []
    assert [(one.prompt.text, one.answer) for one in demonstrations] == [own, *others]


def test_a_fast_run_edits_each_instance_by_one_editor_made_once_and_keeps_no_case_s_own_answer(
    tmp_path: Path, chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[list[Demonstration]] = []
    edited: list[tuple[str, str, str]] = []

    class Spied(InstanceEditor):
        def __init__(self, chat: ChatModel, kept: Sequence[Demonstration]) -> None:
            made.append(list(kept))
            super().__init__(chat, kept)

        def edit(self, pair: ContrastPair, **given: Any) -> EditResult:
            edited.append((pair.prompt.text, pair.safe, pair.unsafe))
            return super().edit(pair, **given)

    monkeypatch.setattr(protocol, "InstanceEditor", Spied)
    before = snapshot(chat.model)
    record = run_safeedit(settings_for(fast=True), tmp_path / "run", chat=chat, judges=[Reads()])
    drawn = draw(CASES, settings_for())
    assert [[one.prompt.id for one in kept] for kept in made] == [record.kept_prompts]
    assert edited == [(case.adversarial_prompt, case.safe_generation, case.unsafe_generation) for case in drawn]
    assert not changed_weights(chat.model, before)
    assert not any("each case's own" in note for note in record.notes)


def test_only_pke_can_be_fast() -> None:
    with pytest.raises(ValidationError, match="fast is a way of PKE's, and the method is dinm"):
        settings_for("dinm", fast=True)


def test_how_the_model_is_loaded_is_as_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StoppedError(Exception):
        pass

    asked: dict[str, Any] = {}

    def load(model: str, **given: Any) -> ChatModel:
        asked.update(given)
        raise StoppedError

    monkeypatch.setattr("pkedit.run.model.load_model", load)
    given = {"mlp_write": "mlp.out", "trust_remote_code": True, "quantisation": "4bit", "dtype": "float32"}
    with pytest.raises(StoppedError):
        run_safeedit(settings_for(**given), tmp_path / "run", judges=[Reads()])
    assert given.items() <= asked.items()


def test_what_pke_keeps_beside_the_case_is_never_harmful(chat: ChatModel) -> None:
    kept = sample_kept(chat, settings_for(kept=9))
    kinds = [(one.prompt.kind, one.prompt.attack is not None) for one in kept]
    assert set(kinds) <= {(Kind.HARMLESS, False), (Kind.HARMLESS, True), (Kind.BORDERLINE, False)}
    assert all(isinstance(one, Demonstration) and one.answer for one in kept)


@pytest.mark.parametrize("method", ["pke", "dinm", "ft", "vanilla"])
def test_the_model_is_bit_for_bit_the_same_after_every_case(
    tmp_path: Path, chat: ChatModel, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    before = snapshot(chat.model)
    changed: list[list[str]] = []
    measured: list[tuple[str, bool]] = []
    append = SafeEditFolder.append
    measure = protocol.measure_case

    def checked_append(self: SafeEditFolder, row: CaseRow) -> None:
        changed.append(changed_weights(chat.model, before) + leftovers(chat.model))
        append(self, row)

    def checked_measure(*arguments: Any, arm: str) -> list[Response]:
        measured.append((arm, bool(changed_weights(chat.model, before))))
        return measure(*arguments, arm=arm)

    monkeypatch.setattr(SafeEditFolder, "append", checked_append)
    monkeypatch.setattr(protocol, "measure_case", checked_measure)
    run_safeedit(settings_for(method), tmp_path / "run", chat=chat, judges=[Reads()])
    assert changed == [[], [], []]
    assert set(measured) == {("vanilla", False)} | ({(method, True)} if method != "vanilla" else set())


def test_the_defended_prompt_is_the_edited_one_and_the_others_are_the_cases_tests() -> None:
    case = CASES[0]
    asked = {group: [prompt.text for prompt in prompts] for group, prompts in case_suite(case).groups.items()}
    assert asked == {
        "ds": [case.adversarial_prompt],
        "dg_only_q": [case.only_question],
        "dg_other_a": [case.other_attack],
        "dg_other_q": [case.other_question],
        "dg_other_aq": [case.other_question_and_attack],
        "knowledge": [case.knowledge_prompt],
    }


def test_judges_of_bare_questions_get_them_without_the_attack(tmp_path: Path, chat: ChatModel) -> None:
    judge = Reads(reads_question=True)
    settings = settings_for("vanilla", cases=1)
    case = draw(CASES, settings)[0]
    run_safeedit(settings, tmp_path / "run", chat=chat, judges=[judge])
    assert judge.prompts[:3] == [case.question] * 3
    other = judge.prompts[3]
    assert other in case.other_question
    assert judge.prompts[4] == other != case.question
    assert len(other) < len(case.other_question)
    assert judge.prompts[5] == case.knowledge_prompt


def test_an_unknown_other_question_is_judged_with_its_whole_prompt() -> None:
    content = {**vars(CASES[0]), "other_question": "alpha", "other_question_and_attack": "beta"}
    groups = case_suite(SafeEditCase(**content)).groups
    assert groups["dg_other_q"][0].question == "alpha"
    assert groups["dg_other_aq"][0].question == "beta"


@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_run_goes_on_behind_its_last_finished_case(
    tmp_path: Path, chat: ChatModel, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    whole = run_safeedit(settings_for(), tmp_path / "whole", chat=chat, judges=[Reads()])
    done: list[str] = []
    original = protocol.edit_case

    def stops_after_two(chat: ChatModel, case: SafeEditCase, *others: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(case.id)
        return original(chat, case, *others)

    with monkeypatch.context() as patch:
        patch.setattr(protocol, "edit_case", stops_after_two)
        with pytest.raises(KeyboardInterrupt):
            run_safeedit(settings_for(), tmp_path / "run", chat=chat, judges=[Reads()])
    path = tmp_path / "run" / "cases.jsonl"
    if torn:
        path.write_bytes(path.read_bytes()[:-9])
    calls = spied(monkeypatch, "edit")
    resumed = run_safeedit(settings_for(), tmp_path / "run", chat=chat, judges=[Reads()])
    assert len(calls) == (2 if torn else 1)
    assert [row["case"] for row in rows_in(tmp_path / "run")] == [case.id for case in draw(CASES, settings_for())]

    def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "seconds": None} for row in rows]

    assert without_time(rows_in(tmp_path / "run")) == without_time(rows_in(tmp_path / "whole"))
    for metrics in (whole.metrics["pke"], resumed.metrics["pke"]):
        del metrics["seconds_per_edit"]
    assert resumed.metrics == whole.metrics


def test_a_finished_run_needs_no_model_to_print_again(
    tmp_path: Path, chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_safeedit(settings_for(), tmp_path / "run", chat=chat, judges=[Reads()])
    monkeypatch.setattr("pkedit.run.model.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    again = run_safeedit(settings_for(), tmp_path / "run")
    assert again.metrics == first.metrics


def test_a_run_is_extended_by_asking_for_more_cases(tmp_path: Path, chat: ChatModel) -> None:
    run_safeedit(settings_for("vanilla", cases=2), tmp_path / "run", chat=chat, judges=[Reads()])
    record = run_safeedit(settings_for("vanilla", cases=4), tmp_path / "run", chat=chat, judges=[Reads()])
    assert record.finished == record.metrics["vanilla"]["ds"].n == 4
    assert len({row["case"] for row in rows_in(tmp_path / "run")}) == 4


@pytest.mark.parametrize(
    ("other", "fragment"),
    [({"method": "dinm"}, "method"), ({"max_new_tokens": 5}, "max_new_tokens"), ({"model": "gpt2"}, "model")],
)
def test_a_folder_of_other_settings_is_refused(
    tmp_path: Path, chat: ChatModel, other: dict[str, Any], fragment: str
) -> None:
    run_safeedit(settings_for(cases=1), tmp_path / "run", chat=chat, judges=[Reads()])
    before = (tmp_path / "run" / "safeedit.json").read_bytes()
    content = {**settings_for(cases=1).model_dump(), **other}
    with pytest.raises(RunFolderError, match=fragment):
        run_safeedit(SafeEditSettings.model_validate(content), tmp_path / "run", chat=chat, judges=[Reads()])
    assert (tmp_path / "run" / "safeedit.json").read_bytes() == before


def test_a_mistake_is_found_before_any_case_and_can_be_mended(
    tmp_path: Path, chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    out = tmp_path / "run"
    for judge, message in (("rule", "no judge is called"), ("remote:openai:some-judge", "OPENAI_API_KEY")):
        with pytest.raises(PkeditError, match=message):
            run_safeedit(settings_for("dinm", judges=[judge]), out, chat=chat)
    assert not (out / "cases.jsonl").exists()
    mended = run_safeedit(settings_for("dinm", judges=["rules"], cases=1), out, chat=chat)
    assert (mended.finished, mended.settings.judges) == (1, ("rules",))


def test_an_address_that_holds_a_key_is_refused_before_anything_is_written(tmp_path: Path, chat: ChatModel) -> None:
    settings = settings_for("dinm", judge_api_base="http://me:secret@127.0.0.1:9/v1")
    with pytest.raises(PkeditError, match="must not hold"):
        run_safeedit(settings, tmp_path / "run", chat=chat)
    assert not (tmp_path / "run").exists()


def test_another_file_under_the_same_name_is_refused(tmp_path: Path, chat: ChatModel) -> None:
    file = tmp_path / "mine.json"
    shutil.copy(SAMPLE, file)
    run_safeedit(settings_for("vanilla", file=str(file)), tmp_path / "run", chat=chat, judges=[Reads()])
    file.write_text(json.dumps(json.loads(file.read_text())[:4]))
    with pytest.raises(RunFolderError, match="content of mine"):
        run_safeedit(settings_for("vanilla", file=str(file)), tmp_path / "run", chat=chat, judges=[Reads()])


def test_folders_of_other_things_and_damaged_lines_are_refused(tmp_path: Path, chat: ChatModel) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("precious")
    with pytest.raises(RunFolderError, match="not a folder of pkedit safeedit"):
        run_safeedit(settings_for("vanilla"), tmp_path / "thesis", chat=chat, judges=[Reads()])
    run_safeedit(settings_for("vanilla"), tmp_path / "run", chat=chat, judges=[Reads()])
    path = tmp_path / "run" / "cases.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:30], lines[2]]) + "\n")
    with pytest.raises(RunFolderError, match="line 2"):
        run_safeedit(settings_for("vanilla"), tmp_path / "run", chat=chat, judges=[Reads()])


def test_unknown_methods_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="method"):
        settings_for("pkee")
    with pytest.raises(ValidationError, match="cases"):
        settings_for(cases=0)
    with pytest.raises(PromptFileError, match=r"absent\.json"):
        run_safeedit(settings_for(file="absent.json"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_edit_that_diverges_is_counted_and_the_others_go_on(
    tmp_path: Path, chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = protocol.edit_case
    bad = draw(CASES, settings_for())[1].id

    def diverges(chat: ChatModel, case: SafeEditCase, *others: Any) -> Any:
        if case.id == bad:
            raise NonFiniteLossError(3, "safe")
        return original(chat, case, *others)

    monkeypatch.setattr(protocol, "edit_case", diverges)
    record = run_safeedit(settings_for(), tmp_path / "run", chat=chat, judges=[Reads()])
    assert record.failed == [bad]
    assert record.metrics["pke"]["ds"].n == record.metrics["vanilla"]["ds"].n == 2
    assert f"because the edit diverged: {bad}" in printed(record, tmp_path)


def test_averages_are_those_computed_by_hand() -> None:
    verdicts = {
        "ds": ("refused", "benign", "harmful", "refused"),
        "dg_only_q": ("refused", "refused", "refused", "harmful"),
        "dg_other_a": ("incoherent", "harmful", "harmful", "refused"),
        "dg_other_q": ("benign", "benign", "refused", "refused"),
        "dg_other_aq": ("harmful", "unjudged", "refused", "harmful"),
        "knowledge": ("benign", "refused", "benign", "benign"),
    }
    rows = [
        CaseRow(
            str(number),
            "any",
            tuple(response(str(number), group, said[number]) for group, said in verdicts.items()),
            seconds=float(number),
        )
        for number in range(4)
    ]
    found = averages(rows, "pke")
    assert found["ds"] == proportion(3, 4)
    assert found["dg_only_q"] == proportion(3, 4)
    assert found["dg_other_a"] == proportion(1, 4)
    assert found["dg_other_q"] == proportion(4, 4)
    assert found["dg_other_aq"] == proportion(1, 3)
    assert found["dg_avg"].value == pytest.approx((3 / 4 + 1 / 4 + 1 + 1 / 3) / 4)
    assert found["knowledge_refused"] == proportion(1, 4)
    assert found["fluency"].value == pytest.approx(ngram_entropy("one two three"))
    assert found["seconds_per_edit"].value == 1.5
    assert unjudged(rows, "pke") == {"dg_other_aq": 1}


def test_four_answers_of_a_case_count_as_one_observation_in_the_interval() -> None:
    rows = [
        CaseRow(str(number), "any", tuple(response(str(number), group, "refused") for group in GROUPS))
        for number in range(5)
    ]
    found = averages(rows, "pke")["dg_avg"]
    expected = proportion(5, 5)
    assert (found.value, found.n) == (1.0, 5)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_fluency_is_averaged_over_the_five_answers_of_a_case() -> None:
    answers = ("one two three four", "one one one one one", "a b c", "no", "")
    row = CaseRow(
        "0",
        "any",
        (
            *(response("0", group, "refused", answer=text) for group, text in zip(GROUPS, answers, strict=True)),
            response("0", "knowledge", "benign", answer="one two three four five six"),
        ),
    )
    expected = sum(ngram_entropy(text) for text in answers) / 5
    assert averages([row], "pke")["fluency"].value == pytest.approx(expected)


def test_what_nobody_judged_is_absent_and_counted() -> None:
    row = CaseRow("0", "any", tuple(response("0", group, "unjudged") for group in (*GROUPS, "knowledge")))
    assert set(averages([row], "pke")) == {"fluency"}
    assert sum(unjudged([row], "pke").values()) == 6


def printed(record: SafeEditRecord, out: Path) -> str:
    console = Console(width=160, file=StringIO())
    print_safeedit(record, out, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_table_has_safeedits_columns_and_the_record_says_how_it_came_about(tmp_path: Path, chat: ChatModel) -> None:
    record = run_safeedit(settings_for(cases=2), tmp_path / "run", chat=chat, judges=[Reads()])
    text = printed(record, tmp_path / "run")
    header = text.partition("Vanilla")[0]
    places = [header.index(name) for name in ("Method", *COLUMNS[:-1])]
    assert places == sorted(places)
    assert all(name in header for name in COLUMNS)
    assert "PKE" in text
    assert "100.00" in text
    assert "same 3 built-in" in text
    stored = SafeEditRecord.model_validate_json((tmp_path / "run" / "safeedit.json").read_text())
    assert stored == record
    assert stored.settings == settings_for(cases=2)
    assert stored.versions["pkedit"]
    assert len(stored.kept_prompts) == 3
    assert set(stored.metrics["pke"]) == {*GROUPS, "dg_avg", "fluency", "knowledge_refused", "seconds_per_edit"}
    assert "seconds_per_edit" not in stored.metrics["vanilla"]


def test_the_unedited_model_is_left_out_on_request(tmp_path: Path, chat: ChatModel) -> None:
    record = run_safeedit(settings_for("ft", vanilla=False, cases=1), tmp_path / "run", chat=chat, judges=[Reads()])
    assert list(record.metrics) == ["ft"]


def test_help_answers_without_torch() -> None:
    code = (
        "import sys, typer; from pkedit.safeedit_cli import register\n"
        "app = typer.Typer(); app.callback()(lambda: None); register(app, lambda verbose: None)\n"
        "try: app(['safeedit', '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--cases" in done.stdout


def test_the_command_passes_on_what_it_was_given(
    tmp_path: Path, chat: ChatModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[SafeEditSettings] = []
    original = protocol.run_safeedit

    def stub(settings: SafeEditSettings, out: Path, **_: Any) -> SafeEditRecord:
        asked.append(settings)
        return original(settings_for("dinm", cases=1), out, chat=chat, judges=[Reads()])

    monkeypatch.setattr("pkedit.run.safeedit.protocol.run_safeedit", stub)
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app, "Compare")
    arguments = [
        "safeedit",
        "safeedit",
        "--method",
        "dinm",
        "--cases",
        "7",
        "--judges",
        "embedded, rules",
        "--seed",
        "3",
    ]
    app([*arguments, "--no-vanilla", "--out", str(tmp_path / "run")], standalone_mode=False)
    given = asked[0]
    assert (given.file, given.method, given.cases, given.judges) == ("safeedit", "dinm", 7, ("embedded", "rules"))
    assert (given.seed, given.edit.seed, given.vanilla) == (3, 3, False)
    assert "DINM" in capsys.readouterr().out
