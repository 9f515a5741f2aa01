"""A configuration is enough: no weights are looked for, and none are made."""

import json
import time
from pathlib import Path
from typing import Any

import gguf
import psutil
import pytest

from checkpoints import EIGHT_BILLION
from pkedit.errors import ModelLoadError
from pkedit.models.checkpoint import meta_model
from pkedit.models.configs import download_folder, has_chat_template, quantisation_of, read_config
from pkedit.models.family import find_sites
from pkedit.models.shape import shape_of
from tiny import make_model, make_tokenizer

LARGE = {**EIGHT_BILLION, "tie_word_embeddings": False}


def folder_of(path: Path, **config: Any) -> str:
    """A folder with a configuration and nothing else."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def test_eight_billion_parameters_take_seconds_and_no_memory(tmp_path: Path) -> None:
    name = folder_of(tmp_path, **LARGE)
    before, started = psutil.Process().memory_info().rss, time.perf_counter()
    model = meta_model(read_config(name))
    assert time.perf_counter() - started < 20
    assert psutil.Process().memory_info().rss - before < 500 << 20
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    shape = shape_of(model)
    assert shape.parameters == 8_030_261_248
    sites = find_sites(model)
    assert (len(sites), sum(site.neurons for site in sites)) == (32, 32 * 14336)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_meta_model_is_as_large_as_the_real_one(tmp_path: Path, family: str) -> None:
    model = make_model(family)
    model.config.save_pretrained(tmp_path)
    assert shape_of(meta_model(read_config(str(tmp_path)))) == shape_of(model)


def test_a_gguf_file_is_read_up_to_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(3)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(24)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_context_length(128)
    writer.add_vocab_size(50)
    writer.add_chat_template("{{ messages }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    config = read_config(str(path))
    assert (config.num_hidden_layers, config.intermediate_size) == (3, 24)
    assert has_chat_template(str(path)) is True
    assert quantisation_of(str(path), config) == ("GGUF, plain weights once loaded", None)


@pytest.mark.parametrize("template", ["{{ messages }}", None])
def test_a_chat_template_is_seen_in_the_tokenizers_files(tmp_path: Path, template: str | None) -> None:
    name = folder_of(tmp_path, **LARGE)
    assert has_chat_template(name) is None
    make_tokenizer(chat_template=template).save_pretrained(tmp_path)
    assert has_chat_template(name) is (template is not None)


def test_a_chat_template_inside_the_tokenizers_configuration_counts(tmp_path: Path) -> None:
    name = folder_of(tmp_path, **LARGE)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert has_chat_template(name) is True


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4}, ("gptq, 4 bits", 4)),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, ("bitsandbytes, 8 bits", 8)),
        ({"quant_method": "fp8"}, ("fp8, 8 bits", 8)),
        ({"quant_method": "something_new"}, ("something_new", None)),
        (None, (None, None)),
    ],
)
def test_the_quantisation_of_a_checkpoint_is_said(
    tmp_path: Path, entry: dict[str, Any] | None, expected: tuple[str | None, float | None]
) -> None:
    more = {} if entry is None else {"quantization_config": entry}
    name = folder_of(tmp_path, **LARGE, **more)
    assert quantisation_of(name, read_config(name)) == expected


def test_only_what_is_not_here_is_downloaded(tmp_path: Path) -> None:
    assert download_folder(folder_of(tmp_path, **LARGE)) is None
    assert download_folder("nobody/nothing") is not None


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "unheard_of"}', '{"model_type": 3}'])
def test_a_configuration_that_says_nothing_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelLoadError, match="cannot read the configuration"):
        read_config(str(tmp_path))


def test_a_model_that_writes_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no causal language model"):
        meta_model(read_config(folder_of(tmp_path, model_type="t5")))


@pytest.mark.parametrize("name", ["nobody/nothing", "absent.gguf"])
def test_a_model_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(ModelLoadError, match=name):
        read_config(name)
