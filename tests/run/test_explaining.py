"""The stage that explains an edit: two files in the agreed form, made once, and nothing else of the run changes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pkedit.models.chat import ChatModel
from pkedit.run import pipeline
from pkedit.run.pipeline import run
from pkedit.run.record import RunRecord
from pkedit.settings import RunSettings
from small_settings import SMALL
from tiny import changed_weights, leftovers, make_chat, snapshot

SETTINGS: dict[str, Any] = {
    **SMALL,
    "locate": {**SMALL["locate"], "neurons": 5, "first_layer": 0.0, "last_layer": 1.0},
    "evaluate": {"seen": 1, "cross": 1, "unseen": 2, "harmless": 4, "long": 1, "borderline": 2, "max_new_tokens": 4}
    | {"judges": ["rules"], "capability": []},
}
FILES = ("pathway.json", "words.json")


class Stages:
    """Remembers which stages began."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def stage(self, name: str) -> None:
        self.begun.append(name)

    def step(self, done: int, total: int, note: str = "") -> None: ...


def settings(**changed: Any) -> RunSettings:
    return RunSettings.model_validate({**SETTINGS, **changed})


@pytest.fixture(scope="module")
def tiny_chat() -> ChatModel:
    return make_chat(max_position_embeddings=2048)


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory, tiny_chat: ChatModel) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "edited"
    before = snapshot(tiny_chat.model)
    seen = Stages()
    run(settings(), folder, until="edit", observer=seen, chat=tiny_chat)
    assert seen.begun == ["sample", "locate", "causal", "edit pke", "explain"]
    assert changed_weights(tiny_chat.model, before) == []
    assert leftovers(tiny_chat.model) == []
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_chat: ChatModel) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(settings(), folder, chat=tiny_chat)
    return folder


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_the_pathway_has_the_agreed_form(edited: Path) -> None:
    found = read(edited, "pathway.json")
    assert found.keys() == {"schema_version", "pairs", "note", "layers", "attention", "mlp", "nodes", "edges"}
    assert (found["schema_version"], found["pairs"], found["layers"]) == (1, 6, 2)
    assert len(found["attention"]) == len(found["mlp"]) == 2
    nodes = {node["id"]: node for node in found["nodes"]}
    assert nodes.pop("prompt") == {"id": "prompt", "kind": "prompt"}
    unsafe = nodes.pop("unsafe")
    assert unsafe["kind"] == "unsafe"
    assert 1 <= len(unsafe["words"]) <= 8
    assert all(isinstance(word, str) and word for word in unsafe["words"])
    for name, node in nodes.items():
        kind, layer, *rest = name.split(".")
        assert (node["kind"], node["layer"]) == (kind, int(layer))
        if kind == "attention":
            assert node.keys() == {"id", "kind", "layer", "contribution"}
            assert node["contribution"] == found["attention"][node["layer"]]
        else:
            assert node.keys() == {"id", "kind", "layer", "contribution", "expert", "index", "edited"}
            assert (node["expert"], [node["index"]]) == (None, [int(part) for part in rest])
    located = {(one["layer"], one["index"]) for one in read(edited, "region.json")["neurons"]}
    assert {(node["layer"], node["index"]) for node in nodes.values() if node.get("edited")} == located
    names = {node["id"] for node in found["nodes"]}
    assert found["edges"]
    for edge in found["edges"]:
        assert edge.keys() == {"from", "to", "weight"}
        assert {edge["from"], edge["to"]} <= names


def test_the_words_have_the_agreed_form(edited: Path) -> None:
    found = read(edited, "words.json")
    assert found.keys() == {"schema_version", "note", "neurons"}
    assert found["schema_version"] == 1
    scores = {(one["layer"], one["index"]): one["score"] for one in read(edited, "region.json")["neurons"]}
    assert 1 <= len(found["neurons"]) <= len(scores)
    for neuron in found["neurons"]:
        assert neuron.keys() == {"layer", "expert", "index", "score", "change", "before", "after"}
        assert neuron["score"] == scores[neuron["layer"], neuron["index"]]
        assert neuron["change"] > 0
        assert len(neuron["before"]) == len(neuron["after"]) == 8
    assert [one["change"] for one in found["neurons"]] == sorted(
        (one["change"] for one in found["neurons"]), reverse=True
    )


def test_a_finished_run_from_before_gets_this_stage_alone(finished: Path, tmp_path: Path, tiny_chat: ChatModel) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    first = {name: (folder / name).read_bytes() for name in FILES}
    others = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in FILES}
    record = RunRecord.load(folder)
    complete = record.model_dump()
    del record.stages["explain"]
    record.save(folder)
    for name in FILES:
        (folder / name).unlink()
    seen = Stages()
    run(settings(), folder, observer=seen, chat=tiny_chat)
    assert seen.begun == ["explain"]
    assert {name: (folder / name).read_bytes() for name in FILES} == first
    again = RunRecord.load(folder).model_dump()
    assert again["stages"].keys() == complete["stages"].keys()
    assert {key: value for key, value in again["stages"].items() if key != "explain"} == {
        key: value for key, value in complete["stages"].items() if key != "explain"
    }
    assert {key: value for key, value in again.items() if key != "stages"} == {
        key: value for key, value in complete.items() if key != "stages"
    }
    assert all(path.read_bytes() == content for path, content in others.items() if path.name != "run.json")


def test_it_changes_no_figure_of_the_run(
    finished: Path, tmp_path: Path, tiny_chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    explained = RunRecord.load(finished)
    monkeypatch.setattr(pipeline, "explain", lambda *_, **__: None)
    plain = run(settings(), tmp_path / "without", chat=tiny_chat)
    assert explained.metrics == plain.metrics
    assert explained.edits == plain.edits
    assert (finished / "responses.jsonl").read_bytes() == (tmp_path / "without" / "responses.jsonl").read_bytes()


def test_a_stage_that_was_cut_short_runs_again(tmp_path: Path, tiny_chat: ChatModel, edited: Path) -> None:
    run(settings(), tmp_path / "run", until="locate", chat=tiny_chat)

    def interrupted(*_: Any, **__: Any) -> None:
        (tmp_path / "run" / "pathway.json").write_text("{")
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "explain", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(settings(), tmp_path / "run", until="edit", chat=tiny_chat)
    seen = Stages()
    run(settings(), tmp_path / "run", until="edit", observer=seen, chat=tiny_chat)
    assert seen.begun == ["explain"]
    assert read(tmp_path / "run", "pathway.json") == read(edited, "pathway.json")


def test_without_pke_there_is_nothing_to_explain(tmp_path: Path, tiny_chat: ChatModel) -> None:
    seen = Stages()
    run(settings(arms=["vanilla", "ft"]), tmp_path / "run", until="edit", observer=seen, chat=tiny_chat)
    assert seen.begun == ["sample", "edit ft"]
    assert not any((tmp_path / "run" / name).exists() for name in FILES)
