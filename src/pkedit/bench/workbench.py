"""What every stage works with: the model, its prompts, how much of each, and what the device can do."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from pkedit.bench.material import Material
from pkedit.models.chat import ChatModel
from pkedit.models.costs import Formats, Peaks
from pkedit.models.machine import measure_peaks
from pkedit.models.precision import arithmetic_dtype
from pkedit.models.shape import ModelShape, shape_of
from pkedit.settings import LocateSettings


@dataclass(frozen=True)
class Sizes:
    """How much each stage is given.

    `located`: pairs and harmless answers that are traced. `edited`: the same in every step of an edit. `answered`:
    prompts, and the tokens written behind each. `batches`: sizes tried for the bare generation, of which the fastest
    counts. `growing_pairs`, `growing_tokens`, `growing_shares`: sizes at which growth is measured, ascending, the last
    of the layers; where something else grows there are as many pairs as in the first of `growing_pairs`. `whole`:
    pairs, harmless answers and steps of the edit that is run from end to end.
    """

    located: tuple[int, int]
    edited: tuple[int, int]
    answered: tuple[int, int]
    batches: tuple[int, ...]
    growing_pairs: tuple[int, ...]
    growing_tokens: tuple[int, ...]
    growing_shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    whole: tuple[int, int, int] = (64, 64, 30)


# On two cores, with the embedded model, about six minutes and about one.
FULL = Sizes(
    located=(10, 12),
    edited=(16, 32),
    answered=(24, 32),
    batches=(8, 16, 32),
    growing_pairs=(3, 5, 7, 9),
    growing_tokens=(32, 64, 96, 128),
)
QUICK = Sizes(
    located=(4, 4),
    edited=(4, 8),
    answered=(8, 12),
    batches=(4, 8),
    growing_pairs=(2, 3, 4, 5),
    growing_tokens=(32, 48, 64, 80),
    whole=(8, 16, 6),
)
# A known shape is measured on a card that it fits, with as much as a user would give it.
SHAPED = Sizes(
    located=(24, 32),
    edited=(16, 32),
    answered=(64, 32),
    batches=(16, 32, 64),
    growing_pairs=(4, 8, 12, 16),
    growing_tokens=(128, 256, 384, 512),
)


@dataclass(frozen=True, eq=False)
class Workbench:
    """One model on one machine. `step` tells whoever watches how far a stage is."""

    chat: ChatModel
    material: Material
    sizes: Sizes
    repeats: int
    step: Callable[[int, int], None]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.chat.device

    @cached_property
    def shape(self) -> ModelShape:
        """The sizes of the model."""
        return shape_of(self.chat.model)

    @cached_property
    def weight_bytes(self) -> int:
        """Of all weights, each once."""
        return sum(weight.numel() * weight.element_size() for weight in self.chat.model.parameters())

    @cached_property
    def largest_layer_bytes(self) -> int:
        """Of the weights of the largest decoder layer."""
        return max(
            sum(weight.numel() * weight.element_size() for weight in block.parameters()) for block in self.chat.blocks
        )

    @property
    def mixed(self) -> torch.dtype:
        """What locating and editing multiply in."""
        return arithmetic_dtype(self.device.type, self.chat.dtype, LocateSettings().precision)

    @cached_property
    def mixed_peaks(self) -> Peaks:
        """What the device can do in that format."""
        return measure_peaks(str(self.device), self.mixed)

    @cached_property
    def plain_peaks(self) -> Peaks:
        """What it can do in the format of the weights."""
        same = self.mixed == self.chat.dtype
        return self.mixed_peaks if same else measure_peaks(str(self.device), self.chat.dtype)

    @property
    def formats(self) -> Formats:
        """Bytes of a weight and of what is multiplied."""
        return Formats(float(self.chat.dtype.itemsize), float(self.mixed.itemsize), cast_once=True)
