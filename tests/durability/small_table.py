"""A random edit of a tiny model, and the settings of a table that takes milliseconds."""

import torch

from pkedit.durability.record import DurabilitySettings
from pkedit.edit.delta import Delta, LayerDelta, vectors
from pkedit.models.chat import ChatModel

# Room for the long preamble.
SHAPE = {"layers": 5, "max_position_embeddings": 512}
SMALL = DurabilitySettings(
    prompts=3,
    samples=2,
    max_new_tokens=4,
    judges=("rules",),
    precision="full",
    tuning_prompts=3,
    tuning_batch=2,
    suffix_prompts=1,
    suffix_tokens=3,
    suffix_steps=4,
    suffix_width=8,
    ablation_prompts=4,
    ablation_checks=2,
)


def random_edit(chat: ChatModel, seed: int = 0) -> Delta:
    """Changes of two neurons in two layers, in their write vectors and gates."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for site in chat.sites[1:3]:
        neurons = torch.tensor([2, 5])
        original = {part: vectors(site, part)[neurons].detach().clone() for part in ("write", "read0")}
        change = {part: 0.5 * torch.randn(own.shape, generator=generator) for part, own in original.items()}
        layers.append(LayerDelta(site.layer, neurons, change, original))
    return Delta(tuple(layers), base=chat.name)
