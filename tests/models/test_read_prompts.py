"""What was read is handed over once, and takes no more memory than it may."""

import torch

from pkedit.models.chat import ChatModel
from pkedit.models.keys import Keys
from pkedit.models.read_prompts import ReadPrompts


def keys(tokens: int, *, value: float = 0.0) -> Keys:
    """Of two layers with one head of width 2, in float32: 16 bytes a token in each."""
    return [(torch.full((1, tokens, 2), value), torch.full((1, tokens, 2), value)) for _ in range(2)]


def test_a_prompt_is_handed_over_once() -> None:
    read = ReadPrompts()
    read.keep([1, 2, 3], 1, [keys(1)])
    assert read.take([1, 2, 4], 1) is None
    assert read.take([1, 2, 3], 0) is None
    assert len(read) == 1
    assert read.take([1, 2, 3], 1) is not None
    assert read.take([1, 2, 3], 1) is None


def test_the_pieces_of_a_prompt_are_joined_in_their_order() -> None:
    read = ReadPrompts()
    read.keep([1, 2, 3, 4], 0, [keys(2, value=1.0), keys(1, value=2.0)])
    found = read.take([1, 2, 3, 4], 0)
    assert found is not None
    assert len(found) == 2
    for layer in found:
        for part in layer:
            assert part[0, :, 0].tolist() == [1.0, 1.0, 2.0]


def test_copies_are_kept_in_the_narrower_format() -> None:
    read = ReadPrompts()
    mixed = [(layer[0], layer[1].bfloat16()) for layer in keys(3)]
    read.keep([1, 2, 3, 4], 0, [mixed])
    mixed[0][1].fill_(7.0)
    found = read.take([1, 2, 3, 4], 0)
    assert found is not None
    assert {part.dtype for layer in found for part in layer} == {torch.bfloat16}
    assert float(found[0][1].max()) == 0.0


def test_no_more_is_kept_than_there_is_room_for() -> None:
    read = ReadPrompts(limit=3 * 32)
    read.keep([1, 2, 3], 0, [keys(2)])
    read.keep([4, 5, 6], 0, [keys(2)])
    read.keep([7, 8], 0, [keys(1)])
    assert read.take([4, 5, 6], 0) is None
    assert read.take([7, 8], 0) is not None


def test_what_is_kept_can_be_part_of_a_gradient(llama: ChatModel) -> None:
    read = ReadPrompts()
    llama.generate(["w1 w2", "w3"], max_new_tokens=1, read=read)
    found = read.take(llama.prompt_ids("w1 w2"), 0)
    assert found is not None
    assert not any(part.is_inference() for layer in found for part in layer)
