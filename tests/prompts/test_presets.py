"""A named set is one pinned file, from the Hub or from a user's folder; without either, one is told where to put it."""

import json
import re
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
import pyarrow
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled
from pyarrow import parquet

from pkedit.errors import PromptFileError
from pkedit.prompts import (
    PRESETS,
    Columns,
    Kind,
    load_attack_preset,
    load_attacks_from,
    load_preset,
    load_prompts_from,
    preset_names,
)

SAMPLE = Path(__file__).parents[1] / "data" / "safeedit_sample.json"
NAMES = sorted(PRESETS)
PROMPT_NAMES = [name for name in NAMES if isinstance(PRESETS[name].holds, Kind)]
ATTACK_NAMES = [name for name in NAMES if name not in PROMPT_NAMES]
# Two rows in the shape of each file that is not like `{"prompt": …}`.
CONTENTS: dict[str, list[dict[str, Any]]] = {
    "jailbreakbench": [{"Goal": f"goal {n}", "Target": "t", "Category": "c"} for n in (1, 2)],
    "jailbreakbench-benign": [{"Goal": f"goal {n}", "Target": "t", "Category": "c"} for n in (1, 2)],
    "alpaca": [{"instruction": f"do {n}", "input": "", "output": "o", "text": "all"} for n in (1, 2)],
    "alpacaeval": [{"instruction": f"do {n}", "output": "o", "dataset": "d"} for n in (1, 2)],
    "mt-bench": [{"prompt": [f"first {n}", "second"], "category": "c"} for n in (1, 2)],
    "xstest": [{"prompt": f"ask {n}", "type": "t", "label": "safe"} for n in (1, 2)],
    "xstest-unsafe": [{"prompt": f"ask {n}", "type": "t", "label": "unsafe"} for n in (1, 2)],
    "gptfuzz": [{"id": n, "text": f"tell {n}: [INSERT PROMPT HERE]"} for n in (1, 2)],
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        path.write_text("".join(",".join(map(str, row)) + "\n" for row in [list(rows[0]), *(r.values() for r in rows)]))
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows)))
    return path


def like(name: str, path: Path) -> Path:
    """A file in the shape of the preset's own."""
    if name == "safeedit":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(SAMPLE.read_bytes())
        return path
    return write(path, CONTENTS.get(name, [{"prompt": f"ask {n}", "category": "c"} for n in (1, 2)]))


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reaches the network, a cache of this machine, or a folder that someone has set."""

    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise AssertionError("a test opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(OfflineModeIsEnabled("offline mode is enabled")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PKEDIT_DATA", raising=False)


def failing(error: Exception) -> Callable[..., NoReturn]:
    def fail(*arguments: object, **options: object) -> NoReturn:
        raise error

    return fail


def test_every_suite_that_is_promised_has_a_name() -> None:
    assert {
        "advbench",
        "harmbench",
        "jailbreakbench",
        "strongreject",
        "maliciousinstruct",
        "xstest",
        "or-bench",
        "alpaca",
        "alpacaeval",
        "mt-bench",
        "safeedit",
    } <= set(PRESETS)
    assert ATTACK_NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_pinned_to_a_commit_and_has_a_licence(name: str) -> None:
    preset = PRESETS[name]
    assert re.fullmatch(r"[0-9a-f]{40}", preset.file.revision)
    assert preset.licence
    assert preset.about


@pytest.mark.parametrize("name", PROMPT_NAMES)
def test_a_preset_is_downloaded_at_its_revision_and_read(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    preset = PRESETS[name]
    asked: dict[str, Any] = {}

    def download(repository: str, path: str, **options: Any) -> str:
        asked.update(options, repository=repository, path=path)
        return str(like(name, tmp_path / "hub" / Path(path).name))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    prompts = load_preset(name)
    assert (asked["repository"], asked["path"]) == (preset.file.repository, preset.file.path)
    assert (asked["repo_type"], asked["revision"]) == ("dataset", preset.file.revision)
    assert len(prompts) == (9 if name == "safeedit" else 2)
    assert {prompt.kind for prompt in prompts} == {preset.holds}
    assert len({prompt.id for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_read_from_the_users_folder_without_a_network(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    like(name, tmp_path / name / Path(PRESETS[name].file.path).name)
    monkeypatch.setenv("PKEDIT_DATA", str(tmp_path))
    assert load_preset(name) if name in PROMPT_NAMES else load_attack_preset(name)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_network_the_file_and_its_place_are_named(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = PRESETS[name].file
    load = load_preset if name in PROMPT_NAMES else load_attack_preset
    with pytest.raises(PromptFileError) as caught:
        load(name)
    message = str(caught.value)
    assert "\n" not in message
    for part in (file.path, file.repository, f"FOLDER/{name}/{Path(file.path).name}", "set PKEDIT_DATA to FOLDER"):
        assert part in message
    monkeypatch.setenv("PKEDIT_DATA", str(tmp_path))
    with pytest.raises(PromptFileError, match=re.escape(str(tmp_path / name / Path(file.path).name))):
        load(name)


@pytest.mark.parametrize("name", [name for name in NAMES if PRESETS[name].file.gated])
def test_a_gated_set_says_how_to_get_access(name: str) -> None:
    with pytest.raises(PromptFileError, match="gated: accept its conditions at") as caught:
        load_preset(name)
    assert f"https://huggingface.co/datasets/{PRESETS[name].file.repository}" in str(caught.value)
    assert "hf auth login" in str(caught.value)


def test_safeedit_is_gated() -> None:
    assert PRESETS["safeedit"].file.gated


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("no connection"),
        EntryNotFoundError("no connection"),
        TimeoutError("no connection"),
        ConnectionResetError("no connection"),
    ],
)
def test_every_way_a_download_fails_becomes_one_message(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(error))
    with pytest.raises(PromptFileError, match="could not be had: no connection"):
        load_preset("advbench")


def test_a_file_from_github_is_fetched_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = write(tmp_path / "given.csv", CONTENTS["gptfuzz"])
    urls = []

    def open_url(url: str, timeout: float) -> Any:
        urls.append(url)
        return content.open("rb")

    monkeypatch.setattr(urllib.request, "urlopen", open_url)
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    attacks = load_attack_preset("gptfuzz")
    assert [attack.fill("q") for attack in attacks] == ["tell 1: q", "tell 2: q"]
    assert load_attack_preset("gptfuzz") == attacks
    file = PRESETS["gptfuzz"].file
    assert urls == [f"https://raw.githubusercontent.com/{file.repository}/{file.revision}/{file.path}"]


def test_switched_off_the_network_is_not_asked_for_a_file_from_github(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", failing(AssertionError("the network was asked")))
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
    with pytest.raises(PromptFileError, match="HF_HUB_OFFLINE"):
        load_attack_preset("gptfuzz")


def test_of_a_mixed_file_only_the_rows_of_its_kind_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = CONTENTS["xstest"] + [{"prompt": "ask 3", "type": "contrast", "label": "unsafe"}]
    for name in ("xstest", "xstest-unsafe"):
        write(tmp_path / name / "train-00000-of-00001.parquet", rows)
    monkeypatch.setenv("PKEDIT_DATA", str(tmp_path))
    assert [prompt.text for prompt in load_preset("xstest")] == ["ask 1", "ask 2"]
    assert [prompt.text for prompt in load_preset("xstest-unsafe")] == ["ask 3"]
    needy = [{"instruction": "sort it", "input": "2, 1", "output": "1, 2", "text": "all"}]
    write(tmp_path / "alpaca" / Path(PRESETS["alpaca"].file.path).name, needy + CONTENTS["alpaca"])
    assert [prompt.text for prompt in load_preset("alpaca")] == ["do 1", "do 2"]


def test_a_name_or_a_file_is_given_in_the_same_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    like("advbench", tmp_path / "advbench" / "train-00000-of-00001.parquet")
    like("gptfuzz", tmp_path / "gptfuzz" / "GPTFuzzer.csv")
    monkeypatch.setenv("PKEDIT_DATA", str(tmp_path))
    assert load_prompts_from("advbench", Kind.HARMFUL) == load_preset("advbench")
    assert load_attacks_from("gptfuzz") == load_attack_preset("gptfuzz")
    path = write(tmp_path / "own.csv", [{"goal": "x", "kind": "k"}])
    (prompt,) = load_prompts_from(str(path), Kind.HARMFUL, Columns.parse("text=goal,category=kind"))
    assert (prompt.text, prompt.category) == ("x", "k")
    path = write(tmp_path / "own.jsonl", [{"template": "say {goal}"}])
    assert load_attacks_from(path, Columns(text="template"))[0].text == "say {question}"


@pytest.mark.parametrize("name", ["advbnch", "AdvBench"])
def test_a_name_that_is_unknown_lists_those_that_would_do(name: str) -> None:
    with pytest.raises(PromptFileError, match="neither a file nor a preset; for harmful prompts") as caught:
        load_prompts_from(name, Kind.HARMFUL)
    message = str(caught.value)
    assert all(known in message for known in preset_names(Kind.HARMFUL))
    assert "alpacaeval" not in message
    with pytest.raises(PromptFileError, match=r"for attack templates .* choose from gptfuzz"):
        load_attacks_from(name)
    with pytest.raises(PromptFileError, match=f"no preset '{name}'; choose from advbench"):
        load_preset(name)


def test_a_path_that_leads_nowhere_is_said_to_be_missing() -> None:
    for path in ("prompts.jsonl", "folder/advbench", Path("prompts.csv")):
        with pytest.raises(PromptFileError, match="no such file"):
            load_prompts_from(path, Kind.HARMLESS)


def test_a_set_of_another_kind_is_refused() -> None:
    with pytest.raises(
        PromptFileError, match="holds harmful prompts; for harmless prompts choose from alpaca, alpacaeval"
    ):
        load_prompts_from("advbench", Kind.HARMLESS)
    with pytest.raises(PromptFileError, match="holds attack templates; for borderline prompts choose from"):
        load_prompts_from("gptfuzz", Kind.BORDERLINE)
    with pytest.raises(PromptFileError, match="holds harmful prompts; for attack templates choose from gptfuzz"):
        load_attacks_from("advbench")
    with pytest.raises(PromptFileError, match="holds attack templates; for harmful prompts or"):
        load_preset("gptfuzz")


def test_columns_are_refused_for_a_set_that_knows_its_own() -> None:
    with pytest.raises(PromptFileError, match="knows its own columns"):
        load_prompts_from("advbench", Kind.HARMFUL, Columns(text="goal"))
