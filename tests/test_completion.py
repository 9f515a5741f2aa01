"""What Tab offers, asked by the protocol that the shells use, and without torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pkedit.completion import hub_cache, list_of, models, presets, run_folders
from pkedit.options import ARMS
from pkedit.settings import ARMS as REAL_ARMS


def offered(*words: str, folder: Path | None = None) -> list[str]:
    """What bash would be given behind these words, the last of which is unfinished."""
    code = "import sys; from pkedit.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    environment = {
        **os.environ,
        "_PKEDIT_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("pkedit", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def test_the_shell_is_offered_commands_and_options_without_torch() -> None:
    assert {"run", "report", "revert"} <= set(offered("r"))
    assert "--harmful" in offered("run", "--h")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "--arms", "vanilla,p"), ["vanilla,pke"]),
        (("evaluate", "--judges", "rules,e"), ["rules,embedded"]),
        (("run", "--harmful", "advb"), ["advbench"]),
        (("bench", "--shape", "llama3"), ["llama3-8b"]),
        (("run", "smol"), ["smollm2"]),
    ],
)
def test_values_are_offered_too(words: tuple[str, ...], expected: list[str], tmp_path: Path) -> None:
    assert offered(*words, folder=tmp_path) == expected


def test_run_folders_are_offered_from_runs_and_from_what_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/mine", "runs/empty", "elsewhere/deep/other"):
        Path(name).mkdir(parents=True)
    for name in ("runs/mine", "elsewhere/deep/other"):
        Path(name, "run.json").write_text("{}")
    assert run_folders("") == ["runs/mine"] or run_folders("") == ["runs/empty/", "runs/mine"]
    assert "runs/mine" in run_folders("runs/m")
    assert run_folders("else") == ["elsewhere/"]
    assert run_folders("elsewhere/deep/") == ["elsewhere/deep/other"]
    assert run_folders("absent/") == []


def test_models_are_the_embedded_one_those_in_the_cache_and_those_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "models--meta-llama--Llama-2-7b-chat-hf").mkdir(parents=True)
    Path("saved").mkdir()
    Path("saved/config.json").write_text("{}")
    Path("small.gguf").write_bytes(b"")
    assert models("s") == ["smollm2", "saved", "small.gguf"]
    assert models("meta-llama/L") == ["meta-llama/Llama-2-7b-chat-hf"]


def test_the_cache_is_where_huggingface_hub_has_it() -> None:
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert str(hub_cache()) == done.stdout.strip()


def test_lists_offer_what_is_not_in_them_yet() -> None:
    complete = list_of("rules", "embedded", "guard:")
    assert complete("") == ["rules", "embedded", "guard:"]
    assert complete("rules,") == ["rules,embedded", "rules,guard:"]
    assert complete("rules,embedded,r") == []


def test_presets_are_those_that_hold_the_kind() -> None:
    assert "advbench" in presets("harmful")("")
    assert "advbench" not in presets("harmless")("")
    assert presets("attacks")("zzz") == []


def test_the_arms_offered_are_those_that_there_are() -> None:
    assert ARMS == REAL_ARMS
