"""A search from its first trial to the run of what it chose, killed and resumed, without a look at the test split."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pkedit.errors import NonFiniteLossError, OtherRunError, PkeditError, RunFolderError
from pkedit.models.chat import ChatModel
from pkedit.prompts import Splits
from pkedit.report import build_report
from pkedit.run.data import read_splits
from pkedit.run.record import RunRecord
from pkedit.settings import RunSettings
from pkedit.tune import search as searching
from pkedit.tune.journal import JOURNAL, Journal
from pkedit.tune.search import Found, measure_chosen, search
from pkedit.tune.shared import Edits
from pkedit.tune.space import settings_at, start
from pkedit.tune.trials import OBJECTIVES, TrialFailed
from tiny import changed_weights, snapshot


class Watching:
    """Remembers the trials that began, and calls `at` when the search says how far it is."""

    def __init__(self, at: Callable[[Found], None] | None = None) -> None:
        self.trials: list[str] = []
        self._at = at

    def stage(self, name: str) -> None:
        if name.startswith("edit trial"):
            self.trials.append(name)

    def step(self, done: int, total: int, note: str = "") -> None: ...

    def found(self, found: Found, total: int) -> None:
        if self._at is not None:
            self._at(found)


def comparable(found: Found) -> list[Any]:
    """Everything of the trials but the seconds that they took."""
    return [replace(trial, seconds=0.0) for trial in found.trials]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tune_settings: RunSettings, tune_chat: ChatModel
) -> tuple[Path, Found]:
    """Three trials whose test split cannot be read."""
    folder = tmp_path_factory.mktemp("searches") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "read_splits", without_test_split)
        return folder, search(tune_settings, folder, trials=3, chat=tune_chat)


class Forbidden:
    """Stands where the test split is, and may not be looked at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the search read {name} of the test split")


def without_test_split(settings: RunSettings) -> Splits:
    return replace(read_splits(settings), test=Forbidden())  # type: ignore[arg-type]


def test_the_guard_of_the_test_split_works(tune_settings: RunSettings) -> None:
    with pytest.raises(AssertionError, match="the search read harmful"):
        _ = without_test_split(tune_settings).test.harmful


def test_a_search_measures_trials_from_the_settings_on(
    finished: tuple[Path, Found], tune_settings: RunSettings
) -> None:
    _, found = finished
    assert [trial.number for trial in found.trials] == [0, 1, 2]
    assert found.trials[0].point == start(tune_settings)
    assert len({tuple(trial.point.values()) for trial in found.trials}) == 3
    for trial in found.trials:
        assert trial.failure is None
        assert list(trial.metrics) == list(OBJECTIVES)
        assert trial.seconds > 0
    assert found.chosen in [trial for trial in found.trials if trial.front]


def test_the_front_is_what_no_other_trial_beats(finished: tuple[Path, Found]) -> None:
    values = {one.number: [one.metrics[name].value for name in OBJECTIVES] for one in finished[1].trials}

    def beaten(own: list[float]) -> bool:
        return any(
            other != own and all(theirs <= mine for theirs, mine in zip(other, own, strict=True))
            for other in values.values()
        )

    assert {one.number for one in finished[1].trials if one.front} == {
        n for n, own in values.items() if not beaten(own)
    }


def test_the_same_seed_gives_the_same_trials_and_another_seed_others(
    finished: tuple[Path, Found], folder: Path, tune_settings: RunSettings, tune_chat: ChatModel
) -> None:
    again = search(tune_settings, folder, trials=2, chat=tune_chat)
    # Which of them are on the front depends on how many there are.
    first = comparable(finished[1])[:2]
    assert comparable(again) == [replace(old, front=new.front) for old, new in zip(first, again.trials, strict=True)]
    journal = Journal.open(folder.with_name("other"), tune_settings.model_copy(update={"seed": 1}))
    journal.failed(journal.ask(), "")
    assert journal.ask().params != finished[1].trials[1].point


def test_a_killed_search_goes_on_where_it_was(
    finished: tuple[Path, Found], folder: Path, tune_settings: RunSettings, tune_chat: ChatModel
) -> None:
    def killed_after(trials: int) -> None:
        """As by the system: no clean-up, in a process of its own."""

        def kill(found: Found) -> None:
            if len(found.trials) == trials:
                os.kill(os.getpid(), signal.SIGKILL)

        child = os.fork()
        if child == 0:
            try:
                search(tune_settings, folder, trials=3, observer=Watching(kill), chat=tune_chat)
            finally:
                os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL

    killed_after(1)
    # And once more in the middle of a trial, while a line was being written.
    Journal.open(folder, tune_settings).ask()
    with (folder / JOURNAL).open("a", encoding="utf-8") as file:
        file.write('{"op_code": 8, "wor')
    seen = Watching()
    found = search(tune_settings, folder, trials=3, observer=seen, chat=tune_chat)
    assert comparable(found) == comparable(finished[1])
    assert seen.trials == ["edit trial 1", "edit trial 2"]
    assert search(tune_settings, folder, trials=3, chat=tune_chat) == found


def test_a_kill_in_the_first_trial_leaves_the_settings_to_be_tried_first(
    folder: Path, tune_settings: RunSettings
) -> None:
    Journal.open(folder, tune_settings).ask()
    assert Journal.open(folder, tune_settings).ask().params == start(tune_settings)


def test_a_trial_that_diverges_is_recorded_and_the_search_goes_on(
    folder: Path, tune_settings: RunSettings, tune_chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, calls = Edits.learn, []

    def diverging(self: Edits, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise NonFiniteLossError(3, "safe")
        return learn(self, *arguments)

    monkeypatch.setattr(Edits, "learn", diverging)
    before = snapshot(tune_chat.model)
    found = search(tune_settings, folder, trials=3, chat=tune_chat)
    assert changed_weights(tune_chat.model, before) == []
    assert [one.failure is None for one in found.trials] == [True, False, True]
    assert "became NaN or Inf at step 3" in str(found.trials[1].failure)
    content = found.as_json()
    assert [one["number"] for one in content["trials"]] == [0, 2]
    assert [(one["number"], one["reason"]) for one in content["failed"]] == [(1, found.trials[1].failure)]
    monkeypatch.setattr(Edits, "learn", lambda *_: (_ for _ in ()).throw(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        search(tune_settings, folder, trials=4, chat=tune_chat)
    assert len(Journal.open(folder, tune_settings).trials()) == 3


def test_a_search_of_which_every_trial_failed_has_nothing_to_measure(folder: Path, tune_settings: RunSettings) -> None:
    journal = Journal.open(folder, tune_settings)
    journal.failed(journal.ask(), "the safe loss became NaN")
    found = search(tune_settings, folder, trials=1)
    assert found.chosen is None
    with pytest.raises(TrialFailed, match=r"none of the 1 trials .* safe loss became NaN"):
        measure_chosen(found, folder)


def test_no_trial_begins_after_the_time_is_over_but_the_first(
    folder: Path, tune_settings: RunSettings, tune_chat: ChatModel
) -> None:
    assert len(search(tune_settings, folder, trials=9, minutes=0, chat=tune_chat).trials) == 1
    assert len(search(tune_settings, folder, trials=9, minutes=0, chat=tune_chat).trials) == 1


def test_the_chosen_point_is_run_once_with_its_settings_and_ends_the_search(
    finished: tuple[Path, Found], tune_settings: RunSettings, tune_chat: ChatModel
) -> None:
    folder, found = finished
    assert found.chosen is not None
    record = measure_chosen(found, folder)
    assert record.settings == settings_at(tune_settings, found.chosen.point)
    assert RunRecord.load(folder / "chosen").metrics.keys() == {"vanilla", "pke"}
    content = json.loads((folder / "chosen" / "tune.json").read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(found.as_json()))
    assert (content["schema_version"], content["split"], content["model"]) == (1, "select", tune_settings.model)
    assert [one["number"] for one in content["trials"] if one["chosen"]] == [found.chosen.number]
    for trial in content["trials"]:
        assert trial["settings"].keys() == found.chosen.point.keys()
        assert {"asr", "over_refusal", "borderline_refusal", "kl", "seconds", "front"} <= trial.keys()
        assert trial["asr"].keys() == {"value", "n", "low", "high"}
    assert build_report(folder / "chosen").is_file()
    seen = Watching()
    assert search(tune_settings, folder, trials=9, observer=seen, chat=tune_chat).trials == found.trials
    assert seen.trials == []
    assert measure_chosen(found, folder).metrics == record.metrics


def test_a_folder_of_other_settings_or_other_files_is_refused(folder: Path, tune_settings: RunSettings) -> None:
    journal = Journal.open(folder, tune_settings)
    other = tune_settings.model_copy(update={"pairs": 5})
    # Nothing was finished under these settings: a mistake in them was probably just mended.
    journal = Journal.open(folder, other)
    journal.failed(journal.ask(), "no reason")
    with pytest.raises(OtherRunError, match=r"other settings \(pairs\).*give another --out"):
        Journal.open(folder, tune_settings)
    (folder.parent / "taken").mkdir()
    (folder.parent / "taken" / "file").touch()
    with pytest.raises(RunFolderError, match="holds no search"):
        Journal.open(folder.parent / "taken", tune_settings)
    (folder / JOURNAL).write_text("no journal\n" * 3, encoding="utf-8")
    with pytest.raises(RunFolderError, match="damaged"):
        Journal.open(folder, other)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"model": "openai:gpt-4o"}, "behind an API"),
        ({"arms": ("vanilla", "dinm")}, "keep pke among --arms"),
        ({"delta": "made.safetensors"}, "leave out delta"),
    ],
)
def test_settings_without_anything_to_tune_are_told_at_once(
    change: dict[str, Any], fragment: str, folder: Path, tune_settings: RunSettings
) -> None:
    with pytest.raises(PkeditError, match=fragment):
        search(tune_settings.model_copy(update=change), folder, trials=1)
    assert not folder.exists()
