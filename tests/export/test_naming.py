"""No path of this machine passes for a repository of the Hub, wherever it is looked at from."""

from pathlib import Path

import pytest
from edited import random_delta

from pkedit.export.delta import export_delta
from pkedit.export.naming import PublicName, public_name
from pkedit.models.chat import ChatModel
from pkedit.run.record import new_record
from pkedit.settings import RunSettings


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", PublicName("meta-llama/Llama-2-7b-chat-hf", True)),
        ("./models/mine", PublicName("mine", False)),
        ("../models/mine", PublicName("mine", False)),
        ("models/of/mine", PublicName("mine", False)),
        ("~/absent/mine", PublicName("mine", False)),
        ("/absent/mine", PublicName("mine", False)),
        ("mine/model.gguf", PublicName("model.gguf", False)),
    ],
)
def test_only_a_name_that_the_hub_could_have_is_on_it(model: str, expected: PublicName) -> None:
    assert public_name(model) == expected


def test_a_known_path_is_none_whatever_it_looks_like() -> None:
    assert public_name("models/mine", local=True) == PublicName("mine", False)


@pytest.mark.parametrize(
    ("identity", "on_hub"), [("sha256 0123", False), ("sha256 0123 of 2 files", False), ("revision 0123", True)]
)
def test_a_run_knows_whether_its_model_was_a_folder(
    tmp_path: Path, llama: ChatModel, identity: str, on_hub: bool
) -> None:
    record = new_record(RunSettings(model="models/mine"))
    record.inputs["model"] = identity
    folder = tmp_path / "run"
    folder.mkdir()
    record.save(folder)
    random_delta(llama).save(folder / "delta.safetensors")
    card = (export_delta(folder, tmp_path / "out") / "README.md").read_text()
    assert ("models/mine" in card) == on_hub
    assert ("base_model: models/mine" in card) == on_hub
