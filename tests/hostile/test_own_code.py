"""A run folder from someone else cannot make this machine run code: that is said on the command line, or not at all."""

import json
from pathlib import Path
from typing import Any

import pytest

from pkedit.cli import main
from pkedit.errors import ModelLoadError
from pkedit.models.refused import check_config
from pkedit.run.record import new_record
from pkedit.settings import RunSettings
from tiny import make_chat, make_region, save_chat

CODE = """
from pathlib import Path
from transformers import PretrainedConfig
Path({marker!r}).touch()
class OwnConfig(PretrainedConfig):
    model_type = "own"
"""


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, Path]:
    """A run folder whose model brings code and whose settings trust it, and the file that the code would make."""
    from pkedit.edit.hooked import HookedDelta

    model, folder, marker = save_chat(tmp_path / "model"), tmp_path / "run", tmp_path / "ran"
    config = json.loads((model / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    (model / "config.json").write_text(json.dumps({**config, **own}))
    (model / "own.py").write_text(CODE.format(marker=str(marker)))
    folder.mkdir()
    new_record(RunSettings(model=str(model), trust_remote_code=True)).save(folder)
    HookedDelta(make_chat(), make_region({1: [2]}), ("write",)).freeze().save(folder / "delta.safetensors")
    return folder, marker


@pytest.mark.parametrize(
    "command",
    [
        *(("export", "RUN", "--as", form, "--to", "OUT") for form in ("full", "adapter")),
        ("export", "RUN", "--as", "delta", "--to", "OUT", "--base", "MODEL"),
        ("chat", "RUN"),
        ("serve", "RUN", "--port", "7999"),
        ("revert", "MODEL", "--delta", "RUN/delta.safetensors", "--to", "OUT"),
    ],
    ids=lambda command: " ".join(command[:4]),
)
def test_the_settings_of_a_run_folder_trust_no_code(
    hostile: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    folder, marker = hostile
    places = {"RUN": folder, "OUT": tmp_path / "out", "MODEL": tmp_path / "model"}
    arguments = [str(places.get(word, word)).replace("RUN/", f"{folder}/") for word in command]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2
    assert not marker.exists()
    assert "brings its own Python code" in said
    assert "--trust-remote-code" in said


def test_the_option_is_what_lets_it_run(hostile: tuple[Path, Path], tmp_path: Path) -> None:
    folder, marker = hostile
    with pytest.raises(SystemExit):
        main(["export", str(folder), "--to", str(tmp_path / "out"), "--trust-remote-code"])
    assert marker.exists(), "otherwise the test above proves nothing"


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_compiled_code_of_a_repository_is_code_too(key: str) -> None:
    config: dict[str, Any] = {"model_type": "llama", key: "someone/kernels"}
    with pytest.raises(ModelLoadError, match=r"someone/kernels.*--trust-remote-code"):
        check_config("theirs", config, trust_remote_code=False, quantisation=None)
    check_config("theirs", config, trust_remote_code=True, quantisation=None)
    check_config("theirs", {**config, key: "sdpa"}, trust_remote_code=False, quantisation=None)
