"""The whole of locating: trace pairs and harmless answers, compute every signal, choose the region."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from pkedit.errors import TooFewPairsError
from pkedit.locate.pathway import contributions
from pkedit.locate.region import Region, choose_region
from pkedit.locate.selectivity import selectivities
from pkedit.locate.trace import Trace, trace
from pkedit.locate.utility import utilities
from pkedit.locate.weights import weight_change
from pkedit.models.batches import Dialogue, dialogue
from pkedit.models.chat import ChatModel
from pkedit.models.precision import arithmetic
from pkedit.prompts.types import ContrastPair, Demonstration
from pkedit.settings import LocateSettings


@dataclass(frozen=True)
class Located:
    """A region, and what the causal check needs: ā per layer [I] and the traced dialogues."""

    region: Region
    means: tuple[Tensor, ...]
    margin: tuple[Dialogue, ...]
    harmless: tuple[Dialogue, ...]
    layer_weight_change: tuple[float, ...]


def locate(
    chat: ChatModel,
    pairs: Sequence[ContrastPair],
    demonstrations: Sequence[Demonstration],
    settings: LocateSettings | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Located:
    """Finds the toxic region (PKE, section 3): one forward and one backward pass over pairs and over harmless answers.

    Raises:
        TooFewPairsError: fewer than two pairs or two harmless answers.
        RegionError: no neuron matches the settings.
    """
    settings = settings or LocateSettings()
    pairs, demonstrations = pairs[: settings.pairs], demonstrations[: settings.demonstrations]
    if len(pairs) < 2 or len(demonstrations) < 2:
        raise TooFewPairsError(
            f"locating needs at least two contrast pairs and two harmless answers, got {len(pairs)} and "
            f"{len(demonstrations)}; one example cannot tell what they have in common"
        )
    margin = pair_dialogues(chat, pairs, limit=settings.tokens)
    harmless = [
        dialogue(chat, kept.prompt.text, kept.answer, limit=settings.tokens, ended=False) for kept in demonstrations
    ]
    total = len(margin) + len(harmless)

    def traced(dialogues: Sequence[Dialogue], signs: Sequence[float], before: int) -> Trace:
        return trace(
            chat,
            dialogues,
            signs,
            first_tokens=settings.first_tokens,
            first_weight=settings.first_weight,
            tokens_per_batch=settings.tokens_per_batch,
            seed=seed,
            progress=None if progress is None else lambda done, _: progress(before + done, total),
        )

    with arithmetic(chat, settings.precision):
        on_pairs = traced(margin, [1.0, -1.0] * len(pairs), 0)
        on_harmless = traced(harmless, [1.0] * len(harmless), len(margin))
    # Selectivity compares what the model does of itself: its unsafe answers with its harmless ones.
    unsafe = replace(on_pairs, layers=tuple(replace(layer, decision=layer.decision[0::2]) for layer in on_pairs.layers))
    change = weight_change(chat, on_pairs)
    depth = len(chat.sites) - 1
    region = choose_region(
        {
            "weight_tracking": change.neuron,
            "pathway": contributions(on_pairs, on_harmless),
            "selectivity": selectivities(unsafe, on_harmless),
            "utility": utilities(on_harmless),
        },
        {
            "weight_tracking": settings.weight_tracking,
            "pathway": settings.pathway,
            "selectivity": settings.selectivity,
            "utility": settings.utility,
        },
        count=settings.neurons,
        layers=(round(settings.first_layer * depth), round(settings.last_layer * depth)),
        per_layer=settings.per_layer,
    )
    return Located(
        region,
        tuple(layer.mean for layer in on_harmless.layers),
        tuple(margin),
        tuple(harmless),
        change.layer,
    )


def pair_dialogues(chat: ChatModel, pairs: Sequence[ContrastPair], *, limit: int) -> list[Dialogue]:
    """Unsafe and safe dialogue of each pair, alternating."""
    return [
        dialogue(chat, pair.prompt.text, answer, limit=limit, ended=ended)
        for pair in pairs
        for answer, ended in ((pair.unsafe, False), (pair.safe, True))
    ]
