"""A model whose configuration lies about its shapes is refused by name, quickly, before memory is taken for it."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pkedit.errors import ModelLoadError, PkeditError
from pkedit.models.configs import read_config
from pkedit.models.loading import load_model
from tiny import save_chat


def change(folder: Path, **values: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


@pytest.mark.parametrize(
    ("family", "lie", "said"),
    [
        ("llama", {"intermediate_size": 10**9}, r"mlp\.gate_proj\.weight 1000000000 × 16, but its file holds 24 × 16"),
        ("llama", {"hidden_size": 2**40}, r"16"),
        ("llama", {"vocab_size": 10**13}, "10000000000000 × 16"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000, but its files hold 21 tensors"),
        ("llama", {"num_hidden_layers": 20}, "describes .* weights, but its files hold"),
        ("llama", {"num_local_experts": 10**6, "model_type": "mixtral"}, "no model has so many"),
        ("gpt2", {"n_layer": 5000}, "n_layer = 5000"),
        ("gpt2", {"n_positions": 10**9}, "1000000000 × 16"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_lie_about_shapes_takes_neither_time_nor_memory(
    tmp_path: Path, family: str, lie: dict[str, int], said: str
) -> None:
    folder = change(save_chat(tmp_path / "model", family=family), **lie)
    before, started = psutil.Process().memory_info().rss, time.perf_counter()
    with pytest.raises(ModelLoadError, match=said):
        load_model(str(folder))
    assert time.perf_counter() - started < 20
    assert psutil.Process().memory_info().rss - before < 300 << 20


def test_check_does_not_build_what_a_lie_asks_for(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no model has so many"):
        read_config(str(change(save_chat(tmp_path / "model"), num_hidden_layers=10**9)))


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": "many"},
        {"hidden_size": None},
        {"hidden_size": -1},
        {"num_attention_heads": 0},
        {"rope_parameters": 7},
        {"quantization_config": "yes"},
        {"quantization_config": {"quant_method": ["x"]}},
        {"auto_map": "own.py", "model_type": "own"},
        {"model_type": "../../etc"},
        {"model_type": 3},
        {"dtype": "float1024"},
        {"layer_types": ["sideways"]},
        {"transformers_weights": "../model.safetensors"},
    ],
    ids=str,
)
def test_nonsense_in_a_configuration_is_one_line(tmp_path: Path, values: dict[str, Any]) -> None:
    folder = change(save_chat(tmp_path / "model"), **values)
    with pytest.raises(PkeditError) as told:
        load_model(str(folder))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"\xff\xfe{}", b"null", b"[]", b'{"a": NaN', b""], ids=lambda content: repr(content[:9])
)
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"])
def test_a_damaged_file_beside_the_weights_is_one_line(tmp_path: Path, file: str, content: bytes) -> None:
    folder = save_chat(tmp_path / "model")
    (folder / file).write_bytes(content)
    if file == "generation_config.json":
        # What only says how to sample is not needed: transformers leaves it out where it is not JSON.
        with contextlib.suppress(PkeditError):
            load_model(str(folder))
        return
    with pytest.raises(PkeditError) as told:
        load_model(str(folder))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", "..", "a/b.safetensors", "a\\b", "a\0b"])
def test_an_index_names_no_file_outside_of_the_models_folder(tmp_path: Path, name: str) -> None:
    save_chat(tmp_path / "other")
    folder = save_chat(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match="not in the model's own folder"):
        load_model(str(folder))


@pytest.mark.parametrize(
    "index",
    ["[]", "{}", '{"weight_map": 3}', "[" * 100_000, '{"weight_map": {"a": "gone.safetensors"}}'],
    ids=["a list", "empty", "a number", "deep", "of nothing"],
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, index: str) -> None:
    folder = save_chat(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelLoadError, match="index"):
        load_model(str(folder))
