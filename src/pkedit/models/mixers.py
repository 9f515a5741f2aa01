"""Where a decoder layer moves information between tokens: its attention, or what stands in its place."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkedit.models.chat import ChatModel
from pkedit.models.family import MlpSite
from pkedit.models.hooks import outputs_of

TOKENS = 8


@dataclass(frozen=True, eq=False)
class Mixer:
    """The attention of one layer. `write` is the matrix whose output goes to the residual stream."""

    module: nn.Module
    write: nn.Module


@torch.no_grad()
def find_mixers(chat: ChatModel) -> tuple[Mixer, ...] | None:
    """The attention of every layer, found by what a pass over a few tokens calls; None where one is not clear.

    It is the one part of a layer with several matrices that is not the MLP. Which of them writes is not said by
    names or by their order: it is the one called last, and it leads to the width of the residual stream.
    """
    parts = [_part(block, chat.sites_of(layer)) for layer, block in enumerate(chat.blocks)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    owned = [(layer, matrix) for layer, part in enumerate(known) for matrix in _matrices(part)]
    last: dict[int, tuple[nn.Module, int]] = {}

    def receive(place: int, output: Tensor) -> None:
        layer, matrix = owned[place]
        last[layer] = matrix, output.shape[-1]

    vocabulary = len(chat.model.get_input_embeddings().weight)
    ids = torch.arange(1, TOKENS + 1, device=chat.device).remainder(vocabulary).unsqueeze(0)
    with chat.frozen(), outputs_of([matrix for _, matrix in owned], receive):
        chat.body(input_ids=ids, use_cache=False)
    width = chat.sites[0].hidden
    if any(layer not in last or last[layer][1] != width for layer in range(chat.layers)):
        return None
    return tuple(Mixer(part, last[layer][0]) for layer, part in enumerate(known))


def _part(block: nn.Module, sites: tuple[MlpSite, ...]) -> nn.Module | None:
    mlp = {id(module) for site in sites for module in (site.input_module, site.write)}
    found = [
        child
        for child in block.children()
        if len(list(_matrices(child))) > 1 and not any(id(module) in mlp for module in child.modules())
    ]
    return found[0] if len(found) == 1 else None


def _matrices(module: nn.Module) -> Iterator[nn.Module]:
    for part in module.modules():
        weight = getattr(part, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() == 2 and not isinstance(part, nn.Embedding):
            yield part
