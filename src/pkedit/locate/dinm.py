"""Where DINM edits (Wang et al. 2024, section 4.1): the layer with the largest distance of safe and unsafe answers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pkedit.errors import TooFewPairsError
from pkedit.locate.region import Region, RegionNeuron
from pkedit.models.batches import Dialogue, dialogue
from pkedit.models.chat import ChatModel
from pkedit.models.hooks import outputs_of
from pkedit.prompts.types import ContrastPair


def layer_distances(chat: ChatModel, pair: ContrastPair, *, limit: int, as_released: bool = False) -> Tensor:
    """‖h_l(x, y⁺) − h_l(x, y⁻)‖₂ for the output of each layer, [layers].

    Each answer is read after its prompt, without padding, and its states are averaged over its own tokens.
    `as_released` reproduces EasyEdit's code instead: the answers are read without any prompt, padded to one
    length, and the distance is taken over all positions, padding included.
    """
    if as_released:
        return _distances_as_released(chat, pair)
    means = [
        _layer_states(chat, item)[:, len(item.prompt) :].mean(1)
        for item in (
            dialogue(chat, pair.prompt.conversation, answer, limit=limit) for answer in (pair.safe, pair.unsafe)
        )
    ]
    distances: Tensor = (means[0] - means[1]).norm(dim=-1)
    return distances


def toxic_layer(chat: ChatModel, pairs: Sequence[ContrastPair], *, limit: int, as_released: bool = False) -> int:
    """The layer that most of the pairs point to; the earlier one where two are level.

    Raises:
        TooFewPairsError: no pairs.
    """
    if not pairs:
        raise TooFewPairsError("locating DINM's layer needs at least one contrast pair; give some")
    votes = torch.zeros(chat.layers)
    with chat.frozen(), torch.no_grad():
        for pair in pairs:
            votes[int(layer_distances(chat, pair, limit=limit, as_released=as_released).argmax())] += 1
    return int(votes.argmax())


def whole_layer(chat: ChatModel, layer: int) -> Region:
    """Every neuron of one layer, those of all its experts included: what DINM calls its toxic region."""
    neurons = tuple(
        RegionNeuron(layer, index, score=0.0, expert=site.expert)
        for site in chat.sites_of(layer)
        for index in range(site.neurons)
    )
    return Region(neurons, {"layer": 1.0})


def _layer_states(chat: ChatModel, item: Dialogue) -> Tensor:
    """Outputs of all layers for one dialogue: [layers, tokens, hidden] in float32."""
    ids = torch.tensor([[*item.prompt, *item.answer]], device=chat.device)
    return block_outputs(chat, ids)[:, 0]


def block_outputs(chat: ChatModel, ids: Tensor) -> Tensor:
    """What each decoder layer gives for token ids [rows, tokens]: [layers, rows, tokens, hidden], float32."""
    seen: dict[int, Tensor] = {}

    def receive(place: int, output: Tensor | tuple[Tensor, ...]) -> None:
        seen[place] = (output[0] if isinstance(output, tuple) else output).float().cpu()

    with outputs_of(chat.blocks, receive):
        chat.body(input_ids=ids, use_cache=False)
    return torch.stack([seen[place] for place in range(len(seen))])


def _distances_as_released(chat: ChatModel, pair: ContrastPair) -> Tensor:
    answers = [chat.answer_ids(text, ended=False) for text in (pair.safe, pair.unsafe)]
    width = max(map(len, answers))
    padding = chat.tokenizer.pad_token_id
    ids = torch.tensor([answer + [padding] * (width - len(answer)) for answer in answers], device=chat.device)
    states = block_outputs(chat, ids)
    distances: Tensor = (states[:, 0] - states[:, 1]).flatten(1).norm(dim=-1)
    return distances
