"""Nothing is ever read from a pickle: neither by our own code nor, where we call them, by the libraries."""

import ast
import pickle
from pathlib import Path

import pytest
import torch

import pkedit
from pkedit.edit.delta import Delta
from pkedit.errors import DeltaError, ModelLoadError
from pkedit.models.loading import load_model
from tiny import save_chat

SOURCES = sorted(Path(pkedit.__file__).parent.rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
LOADERS = {("torch", "load"), ("torch", "jit.load"), ("pd", "read_pickle"), ("numpy", "load")}


class Harm:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_no_source_unpickles() -> None:
    assert len(SOURCES) > 100
    for node in (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            assert not {name.name.split(".")[0] for name in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in MODULES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = (ast.unparse(node.func.value), node.func.attr)
            allowed = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert called not in LOADERS, ast.unparse(node)
            assert called != ("np", "load") or allowed.get("allow_pickle") == "False"
            assert (
                called[1] != "from_pretrained" or "AutoModel" not in called[0] or allowed["use_safetensors"] == "True"
            )


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_model_that_is_only_a_pickle_is_refused_with_what_to_do(tmp_path: Path, file: str) -> None:
    folder = save_chat(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(pickle.dumps({"weight": Harm(tmp_path / "ran")}))
    with pytest.raises(ModelLoadError, match=rf"only as pickles \({file}\).*save_pretrained writes safetensors"):
        load_model(str(folder))
    assert not (tmp_path / "ran").exists()


def test_beside_safetensors_a_pickle_is_left_alone(tmp_path: Path) -> None:
    folder = save_chat(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm(tmp_path / "ran")))
    load_model(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_delta_that_is_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"layers.0.neurons": torch.zeros(1)}, tmp_path / "delta.safetensors")
    with pytest.raises(DeltaError, match="not a readable delta file"):
        Delta.load(tmp_path / "delta.safetensors")
    (tmp_path / "other.safetensors").write_bytes(pickle.dumps(Harm(tmp_path / "ran")))
    with pytest.raises(DeltaError, match="not a readable delta file"):
        Delta.load(tmp_path / "other.safetensors")
    assert not (tmp_path / "ran").exists()
