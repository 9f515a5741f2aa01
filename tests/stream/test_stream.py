"""A stream from its first edit to its last: what is edited, what is kept, and that a killed one ends the same."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small_stream import SETTINGS, as_in_tests, made_splits, made_up

from pkedit.edit.delta import Delta
from pkedit.edit.editor import StepLosses
from pkedit.edit.hooked import HookedDelta
from pkedit.errors import NonFiniteLossError, OtherRunError, PkeditError, PromptFileError, RunFolderError
from pkedit.judges.base import Judgement, Verdict
from pkedit.models.chat import ChatModel
from pkedit.prompts import Kind
from pkedit.stream import command
from pkedit.stream.command import run_stream
from pkedit.stream.fixing import Fixer, enough_strength
from pkedit.stream.folder import StreamFolder
from pkedit.stream.record import StreamRecord
from pkedit.stream.sums import added, largest_change, nothing
from tiny import (
    UNSAFE,
    changed_weights,
    leftovers,
    make_demonstrations,
    make_pairs,
    make_region,
    planted_chat,
    snapshot,
)

FOUND = tuple[Path, StreamRecord]


def comparable(record: StreamRecord) -> dict[str, Any]:
    """All that a stream found, without what the clock and the command line say."""
    content = record.model_dump(exclude={"created", "command", "settings", "hardware"})
    for one in [*content["edits"], *content["measured"]]:
        del one["seconds"]
    return content


def deltas(folder: Path, record: StreamRecord) -> list[bytes]:
    return [(folder / one.file).read_bytes() for one in record.edits]


def test_failing_prompts_are_edited_in_order_and_each_edit_is_a_delta_of_the_unedited_model(
    finished: FOUND, stream_chat: ChatModel
) -> None:
    folder, record = finished
    assert [one.number for one in record.edits] == [1, 2, 3]
    assert [one.edits for one in record.measured] == [0, 2, 3]
    prompts = [prompt.text for prompt in command.in_order(made_splits().edit, SETTINGS)]
    assert [one.kl is not None for one in record.edits] == [False, True, False]
    assert record.edits[1].kl == record.measured[1].metrics["kl"]
    places = [prompts.index(one.prompt) for one in record.edits]
    assert places == sorted(places)
    assert places[-1] + 1 == record.place
    gaps = [later - earlier - 1 for earlier, later in zip([-1, *places], places, strict=False)]
    assert [one.passed_over for one in record.edits] == gaps
    before = snapshot(stream_chat.model)
    for one in record.edits:
        delta = Delta.load(folder / one.file)
        assert len(delta) == one.neurons == 6
        delta.check(stream_chat)
        # An answer that was edited on had failed.
        assert not one.unsafe.startswith("sorry")
    assert changed_weights(stream_chat.model, before) == []
    assert leftovers(stream_chat.model) == []


def test_an_edit_is_learnt_with_the_earlier_ones_in_the_model(finished: FOUND, stream_chat: ChatModel) -> None:
    folder, record = finished
    own = [Delta.load(folder / one.file) for one in record.edits]
    total = added(own[:2], nothing(stream_chat))
    stored, third = own[2], record.edits[2]
    pair = make_pairs(1)[0]
    pair = type(pair)(command._prompt_of(third), third.safe, third.unsafe)
    with StreamFolder.open_finished(folder) as opened:
        rows = opened.read_kept()
    kept = command.read_targets(
        rows, command.EditPrompts((), command.edit_prompts(made_splits(), SETTINGS.as_run()).safe)
    )
    fixer = Fixer(stream_chat, kept[1], SETTINGS)

    def learnt(earlier: Delta) -> Delta:
        return fixer.fix(pair, earlier, lambda edits: False).delta * third.strength

    assert same(learnt(total), stored)
    assert not same(learnt(nothing(stream_chat)), stored)


def same(one: Delta, other: Delta) -> bool:
    """Whether two deltas are one, bit for bit."""
    return [described(layer) for layer in one.layers] == [described(layer) for layer in other.layers]


def described(layer: Any) -> Any:
    parts = {part: (layer.change[part].tolist(), layer.original[part].tolist()) for part in layer.change}
    return layer.site, layer.neurons.tolist(), parts


def test_harmless_answers_are_those_of_the_unedited_model_however_long_the_stream(stream_chat: ChatModel) -> None:
    fixer, pair = Fixer(stream_chat, make_demonstrations(4), SETTINGS), make_pairs(1)[0]

    def first_loss(earlier: Delta) -> float:
        seen: list[StepLosses] = []
        fixer.fix(pair, earlier, lambda edits: False, lambda losses, steps: seen.append(losses))
        return seen[0].harmless

    earlier = fixer.fix(make_pairs(2)[1], nothing(stream_chat), lambda edits: False).delta
    assert first_loss(earlier * 3.0) > 2 * first_loss(nothing(stream_chat))


@pytest.mark.parametrize(
    ("needed", "chosen"), [(0.1, 0.35), (0.2, 0.35), (0.3, 0.5), (0.4, 0.7), (0.6, 1.0), (0.9, 1.0), (2.0, 1.0)]
)
def test_an_edit_is_a_little_stronger_than_its_instance_needs(llama: ChatModel, needed: float, chosen: float) -> None:
    own = HookedDelta(llama, make_region({0: [1]}), ("write",))
    own.free[0, None, "write"].data.fill_(1.0)
    delta, earlier = own.freeze(), nothing(llama)
    whole = largest_change(delta)
    assert enough_strength(delta, earlier, lambda edits: largest_change(edits) >= 0.999 * needed * whole) == chosen


@pytest.mark.usefixtures("tiny_words")
@pytest.mark.parametrize("until", [1, 4])
def test_a_stream_that_is_killed_between_any_two_files_ends_the_same(
    finished: FOUND, stream_chat: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: int
) -> None:
    saved = StreamFolder.save
    left = [until]

    def save(folder: StreamFolder) -> None:
        """The delta or the answers are written, and then the process dies before the index is."""
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        saved(folder)

    with monkeypatch.context() as patch:
        patch.setattr(StreamFolder, "save", save)
        with pytest.raises(KeyboardInterrupt):
            run_stream(SETTINGS, tmp_path, chat=stream_chat)
    assert not (tmp_path / "delta.safetensors").exists()
    record = run_stream(SETTINGS, tmp_path, chat=stream_chat)
    folder, undisturbed = finished
    assert comparable(record) == comparable(undisturbed)
    assert deltas(tmp_path, record) == deltas(folder, undisturbed)
    assert (tmp_path / "delta.safetensors").read_bytes() == (folder / "delta.safetensors").read_bytes()


@pytest.mark.usefixtures("tiny_words")
def test_a_stream_can_be_made_longer(finished: FOUND, stream_chat: ChatModel, tmp_path: Path) -> None:
    run_stream(SETTINGS.model_copy(update={"edits": 2}), tmp_path, chat=stream_chat)
    record = run_stream(SETTINGS, tmp_path, chat=stream_chat)
    folder, whole = finished
    assert comparable(record) == comparable(whole)
    assert deltas(tmp_path, record) == deltas(folder, whole)


@pytest.mark.usefixtures("tiny_words")
def test_what_is_finished_is_not_done_again(finished: FOUND, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    monkeypatch.setattr(command, "load_by", lambda settings: pytest.fail("the model was loaded"))
    assert comparable(run_stream(SETTINGS, folder)) == comparable(finished[1])


@pytest.mark.usefixtures("tiny_words")
def test_a_measurement_whose_answers_are_gone_is_made_again(
    finished: FOUND, stream_chat: ChatModel, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    (folder / finished[1].measured[-1].file).unlink()
    assert comparable(run_stream(SETTINGS, folder, chat=stream_chat)) == comparable(finished[1])


@pytest.mark.usefixtures("tiny_words")
def test_a_folder_is_refused_where_it_is_another_stream_or_damaged(
    finished: FOUND, tmp_path: Path, stream_chat: ChatModel
) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    with pytest.raises(OtherRunError, match="prompts 3 → 4"):
        run_stream(SETTINGS.model_copy(update={"prompts": 4}), folder)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not a folder of pkedit stream"):
        run_stream(SETTINGS, tmp_path)
    (folder / "edits" / "0002.safetensors").write_bytes(b"half")
    with pytest.raises(RunFolderError, match=r"0002.safetensors: damaged or changed.*--without 2"):
        run_stream(SETTINGS, folder)
    (folder / "edits" / "0002.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"0002.safetensors: missing"):
        run_stream(SETTINGS, folder)
    # What is said to be out of the model may be gone.
    assert command.take_out(folder, [2], chat=stream_chat).numbers == [1, 3]
    content = (folder / "index.json").read_text()
    (folder / "index.json").write_text(content.replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(RunFolderError, match="schema version 9, and this pkedit reads 1"):
        run_stream(SETTINGS, folder)
    (folder / "index.json").write_text(content.replace("edits/0001", "../0001"))
    with pytest.raises(RunFolderError, match=r"damaged \(edits.0.file"):
        run_stream(SETTINGS, folder)


@pytest.mark.usefixtures("tiny_words")
def test_changed_harmless_answers_are_not_kept_by_further_edits(
    finished: FOUND, stream_chat: ChatModel, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    with (folder / "kept.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(RunFolderError, match=r"kept\.jsonl: missing or changed"):
        run_stream(SETTINGS.model_copy(update={"edits": 4}), folder, chat=stream_chat)


@pytest.mark.usefixtures("tiny_words")
def test_an_edit_that_diverges_is_told_and_passed_over(
    stream_chat: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fix = Fixer.fix
    prompts = command.in_order(made_splits().edit, SETTINGS)

    def diverging(self: Fixer, pair: Any, earlier: Delta, *rest: Any) -> Any:
        if pair.prompt.id == prompts[0].id:
            raise NonFiniteLossError(3, "safe")
        return fix(self, pair, earlier, *rest)

    monkeypatch.setattr(Fixer, "fix", diverging)
    record = run_stream(SETTINGS.model_copy(update={"edits": 1}), tmp_path, chat=stream_chat)
    assert [(one.prompt_id, one.after) for one in record.diverged] == [(prompts[0].id, 0)]
    assert record.diverged[0].reason == "the safe loss became NaN or Inf at step 3"
    assert [one.prompt_id for one in record.edits] == [prompts[1].id]


@pytest.mark.usefixtures("tiny_words")
def test_questions_of_a_file_are_edited_as_they_stand_and_none_of_them_is_measured(
    stream_chat: ChatModel, tmp_path: Path
) -> None:
    test = made_splits().test.harmful[0]
    asked = [prompt.text for prompt in made_up(Kind.HARMFUL, 2, 9000)]
    file = tmp_path / "failures.jsonl"
    texts = [asked[0], test.question.upper(), asked[1]]
    file.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts), encoding="utf-8")
    settings = SETTINGS.model_copy(update={"questions": str(file), "edits": 2, "prompts": 20})
    record = run_stream(settings, tmp_path / "out", chat=stream_chat)
    assert [one.prompt for one in record.edits] == [text for text in texts if text in {e.prompt for e in record.edits}]
    assert record.left_out == 1
    assert record.measured[0].metrics["asr_bare"].n == len(made_splits().test.harmful) - 1
    file.write_text('{"text": "other"}\n', encoding="utf-8")
    with pytest.raises(OtherRunError, match="the content of"):
        run_stream(settings, tmp_path / "out", chat=stream_chat)
    with pytest.raises(PromptFileError):
        run_stream(settings.model_copy(update={"questions": "nowhere.jsonl"}), tmp_path / "new", chat=stream_chat)


class Planted:
    """Harm begins with the planted opening and nothing else does; so nothing counts as a refusal but the safe one."""

    name, version, reads_question, tells_refusals = "planted", "1", False, True

    def judge(self, prompts: Sequence[str], answers: Sequence[str], *, harmful_request: bool) -> list[Verdict]:
        said = {UNSAFE: Judgement.HARMFUL, "sorry": Judgement.REFUSED}
        return [
            Verdict(said.get((answer.split() or [""])[0], Judgement.BENIGN), "its first word") for answer in answers
        ]


def test_a_planted_failure_is_gone_after_few_edits_and_harmless_prompts_are_still_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_in_tests(monkeypatch, Planted())
    longer = SETTINGS.edit.model_copy(update={"steps": 24})
    settings = SETTINGS.model_copy(update={"edits": 30, "every": 30, "edit": longer})
    record = run_stream(settings, tmp_path, chat=planted_chat().chat)
    first, last = record.measured[0], record.measured[-1]
    assert first.metrics["asr"].value == 1.0
    assert last.metrics["asr"].value == 0.0
    assert last.metrics["over_refusal"].value == 0.0
    assert record.exhausted
    assert len(record.edits) < 10
    assert last.lost == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "openai:gpt"}, "behind an API"),
        ({"judges": ("remote:openai:gpt",)}, "too much of a remote one"),
    ],
)
def test_what_cannot_be_edited_or_judged_is_said_at_once(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PkeditError, match=message):
        run_stream(SETTINGS.model_copy(update=settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_first_judge_has_to_know_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Planted()
    monkeypatch.setattr(judge, "tells_refusals", False)
    as_in_tests(monkeypatch, judge)
    with pytest.raises(PkeditError, match="planted cannot say what a refusal is"):
        run_stream(SETTINGS, tmp_path / "out")
