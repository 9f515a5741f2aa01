"""A GGUF file that is cut short, or whose header lies about what follows, is refused by its name in one line."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from pkedit.errors import ModelLoadError
from pkedit.models.loading import load_model

FIRST_TENSOR, TOKENS = b"token_embd.weight", b"tokenizer.ggml.tokens"
FAR = struct.pack("<Q", 1 << 58)
# Bytes of the magic, the version and two counts; then the first key.
TENSORS, ENTRIES, FIRST_KEY = 8, 16, 24


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    file = GGUFWriter(str(path), "llama")
    file.add_block_count(1)
    file.add_embedding_length(16)
    file.add_tokenizer_model("gpt2")
    file.add_token_list([f"t{number}" for number in range(10)])
    file.add_tensor(FIRST_TENSOR.decode(), np.zeros((10, 16), dtype=np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path.read_bytes()


def far(content: bytes, place: int) -> bytes:
    """A huge number where a count, a length or an offset stood."""
    return content[:place] + FAR + content[place + len(FAR) :]


def behind(content: bytes, name: bytes, distance: int) -> int:
    return content.index(name) + len(name) + distance


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: b"NOPE" + whole[4:], id="magic"),
        pytest.param(lambda whole: whole[:4] + struct.pack("<I", 99) + whole[8:], id="version"),
        pytest.param(lambda whole: whole[:40], id="cut in the header"),
        pytest.param(lambda whole: whole[: len(whole) // 2], id="cut in the middle"),
        pytest.param(lambda whole: far(whole, TENSORS), id="tensors"),
        pytest.param(lambda whole: far(whole, ENTRIES), id="entries"),
        pytest.param(lambda whole: far(whole, FIRST_KEY), id="length of a key"),
        pytest.param(lambda whole: far(whole, behind(whole, TOKENS, 8)), id="length of a list"),
        pytest.param(lambda whole: far(whole, behind(whole, FIRST_TENSOR, 4)), id="size of a tensor"),
        pytest.param(lambda whole: far(whole, behind(whole, FIRST_TENSOR, 24)), id="offset of a tensor"),
    ],
)
def test_it_is_refused_by_name(whole: bytes, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(damage(whole))
    with pytest.raises(ModelLoadError, match=r"mine\.gguf") as refused:
        load_model(str(path))
    assert "\n" not in str(refused.value)
