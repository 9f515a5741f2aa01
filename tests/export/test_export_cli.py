"""`pkedit export` and `pkedit revert`: every form, and a last line of Python that really loads what was written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from edited import logits, make_run
from torch import Tensor

from pkedit.export import push as pushing
from pkedit.export.licence import licence_of
from tiny import save_chat

Invoke = Callable[..., tuple[int, str, str]]


class Api:
    """The Hub, which takes everything until `error` says otherwise."""

    uploaded: ClassVar[list[list[str]]] = []
    error: ClassVar[BaseException | None] = None

    def create_repo(self, repo_id: str, **_: Any) -> Any:
        return type("Url", (str,), {"repo_id": repo_id})(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        self.uploaded.append(sorted(path.name for path in Path(options["folder_path"]).iterdir()))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Api]:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(pushing, "HfApi", Api)
    monkeypatch.setattr(Api, "uploaded", [])
    return Api


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Tensor]:
    return make_run(tmp_path / "run", save_chat(tmp_path / "base"))


@pytest.mark.parametrize("form", ["full", "adapter", "delta"])
def test_the_last_line_loads_the_edited_model(
    invoke: Invoke, run: tuple[Path, Tensor], tmp_path: Path, form: str
) -> None:
    folder, edited = run
    code, output, errors = invoke("export", folder, "--as", form, "--to", tmp_path / "out")
    assert code == 0
    assert "pkedit:" not in errors
    *before, last = output.splitlines()
    assert any(line.startswith(f"{tmp_path / 'out'}: ") for line in before)
    assert (form == "delta") == (not any("Checked on 8 prompts" in line for line in before))
    names: dict[str, Any] = {}
    exec(last.removeprefix("Load it: "), names)
    model = names["chat"].model if form == "delta" else names["model"]
    torch.testing.assert_close(logits(model), edited, rtol=0, atol=1e-4)


def test_the_edit_comes_out_again(invoke: Invoke, run: tuple[Path, Tensor], tmp_path: Path) -> None:
    folder, _ = run
    assert invoke("export", folder, "--to", tmp_path / "edited", "--no-check")[0] == 0
    delta = folder / "delta.safetensors"
    code, output, _ = invoke("revert", tmp_path / "edited", "--delta", delta, "--to", tmp_path / "reverted")
    assert code == 0
    assert "the model that this delta was made on, bit for bit; 3 neurons have the vectors again" in output
    code, output, errors = invoke("revert", tmp_path / "reverted", "--delta", delta, "--to", tmp_path / "again")
    assert (code, output) == (2, "")
    assert errors.splitlines()[-1].startswith("pkedit: layer 0 holds the original weights")
    assert errors.count("pkedit:") == 1


def test_json_holds_everything_that_is_printed(invoke: Invoke, run: tuple[Path, Tensor], tmp_path: Path) -> None:
    _, output, _ = invoke("export", run[0], "--as", "adapter", "--to", tmp_path / "out", "--json")
    content = json.loads(output)
    assert content["form"] == "adapter"
    assert content["path"] == str(tmp_path / "out")
    assert content["notes"][0].startswith("Checked on 8 prompts")
    assert content["load"].startswith("from peft import PeftModel")
    assert content["uploaded_to"] is None


def test_a_push_without_a_token_is_refused_before_anything_is_written(
    invoke: Invoke, run: tuple[Path, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "get_token", lambda: None)
    code, _, errors = invoke("export", run[0], "--to", tmp_path / "out", "--push", "me/safer")
    assert code == 2
    assert errors.startswith("pkedit: --push needs a token")
    assert not (tmp_path / "out").exists()


def test_a_push_names_the_repository_in_the_card(
    invoke: Invoke, run: tuple[Path, Tensor], tmp_path: Path, hub: type[Api]
) -> None:
    _, output, errors = invoke("export", run[0], "--as", "delta", "--to", tmp_path / "out", "--push", "me/safer")
    assert "Uploaded to https://huggingface.co/me/safer (a new repository is private" in output
    assert hub.uploaded == [["README.md", "delta.safetensors"]]
    assert (
        'Delta.load(hf_hub_download("me/safer", "delta.safetensors"))' in (tmp_path / "out" / "README.md").read_text()
    )
    assert "hf_secret" not in output + errors


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError("Bearer hf_secret refused"), 2, "pkedit: the upload to me/safer failed (RuntimeError); "),
        (KeyboardInterrupt(), 130, "pkedit: interrupted. The export is complete"),
    ],
)
def test_an_upload_that_did_not_end_leaves_the_export_and_the_command_that_uploads_it(
    invoke: Invoke,
    run: tuple[Path, Tensor],
    tmp_path: Path,
    hub: type[Api],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    monkeypatch.setattr(hub, "error", error)
    out = tmp_path / "out"
    found, output, errors = invoke("export", run[0], "--as", "delta", "--to", out, "--push", "me/safer")
    last = errors.splitlines()[-1]
    assert found == code
    assert last.startswith(said)
    assert last.endswith(f"The export is complete in {out}; upload it with: hf upload me/safer {out} . --private")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "delta.safetensors"]
    assert "hf_secret" not in output + errors


@pytest.mark.parametrize(
    ("form", "stages"),
    [
        ("full", ["loading the model", "computing the edit's logits", "saving", "loading what was saved"]),
        ("adapter", ["loading the model", "computing the edit's logits", "saving", "loading what was saved"]),
        ("delta", ["saving", "uploading to the Hub"]),
    ],
)
def test_progress_and_what_libraries_print_go_to_standard_error(
    invoke: Invoke,
    run: tuple[Path, Tensor],
    tmp_path: Path,
    hub: type[Api],
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    stages: list[str],
) -> None:
    def chatty(*arguments: Any) -> Any:
        print("a library speaks")
        return licence_of(*arguments)

    monkeypatch.setattr(f"pkedit.export.{form}.licence_of", chatty)
    pushed = ["--push", "me/safer"] if form == "delta" else []
    code, output, errors = invoke("export", run[0], "--as", form, "--to", tmp_path / "out", "--json", *pushed)
    assert code == 0
    assert json.loads(output)["path"] == str(tmp_path / "out")
    told = [line for line in errors.splitlines() if line != "a library speaks"]
    assert len(told) == len(errors.splitlines()) - 1
    assert [line.startswith(stage) for line, stage in zip(told, stages, strict=True)] == [True] * len(stages)


def test_taking_an_edit_out_is_watched_too(invoke: Invoke, run: tuple[Path, Tensor], tmp_path: Path) -> None:
    invoke("export", run[0], "--to", tmp_path / "edited", "--no-check")
    delta = run[0] / "delta.safetensors"
    _, output, errors = invoke("revert", tmp_path / "edited", "--delta", delta, "--to", tmp_path / "out", "--json")
    assert json.loads(output)["neurons"] == 3
    stages = [line.partition(":")[0] for line in errors.splitlines()]
    assert stages == ["loading the model", "putting the original vectors back", "saving"]
