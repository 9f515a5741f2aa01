"""The whole of locating: trace pairs and harmless answers, compute every signal, choose the region."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pkedit.errors import TooFewPairsError
from pkedit.locate.pathway import contributions
from pkedit.locate.region import Region, candidate_layers, choose_region
from pkedit.locate.selectivity import selectivities
from pkedit.locate.trace import EXACT_WIDTH, Trace, summed, trace
from pkedit.locate.utility import utilities
from pkedit.locate.weights import weight_change, weight_change_after_steps
from pkedit.models.batches import Dialogue, answer_scores, dialogue, kept_dialogues, make_batch
from pkedit.models.chat import ChatModel
from pkedit.models.precision import arithmetic
from pkedit.models.sequences import by_length
from pkedit.prompts.types import ContrastPair, Demonstration
from pkedit.settings import LocateSettings

# Of the sketch in layers that only the profile of the model shows: the length of a whole layer's change is a mean
# over thousands of neurons, so a coarse one is enough.
PROFILE_WIDTH = 32


@dataclass(frozen=True)
class Located:
    """A region, and what the causal check needs: ā per MLP [I] and the traced dialogues."""

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
            f"{len(demonstrations)}; one example cannot tell what they have in common: raise --pairs and "
            "--demonstrations"
        )
    margin = pair_dialogues(chat, pairs, limit=settings.tokens)
    harmless = kept_dialogues(chat, demonstrations, limit=settings.tokens)
    total = len(margin) + len(harmless)

    layers = candidate_layers(settings, chat.layers)

    def traced(dialogues: Sequence[Dialogue], signs: Sequence[float], before: int, **what: Any) -> Trace:
        return trace(
            chat,
            dialogues,
            signs,
            first_tokens=settings.first_tokens,
            first_weight=settings.first_weight,
            tokens_per_batch=settings.tokens_per_batch,
            seed=seed,
            progress=None if progress is None else lambda done, _: progress(before + done, total),
            **what,
        )

    with chat.frozen(), arithmetic(chat, settings.precision, cast_once=True):
        on_harmless = traced(harmless, [1.0] * len(harmless), 0, sketch_widths=[0] * len(chat.sites))
        useful = utilities(on_harmless)
        # From here on only sums over dialogues are needed, which are small.
        on_harmless = summed(on_harmless)
        on_pairs = traced(
            margin,
            [1.0, -1.0] * len(pairs),
            len(harmless),
            rows=[0] * len(margin),
            # Selectivity compares what the model does of itself: its unsafe answers with its harmless ones.
            compared=[True, False] * len(pairs),
            sketch_widths=_sketch_widths(chat, layers),
        )
    if settings.probe_steps == 1:
        change = weight_change(chat, on_pairs)
    else:
        change = weight_change_after_steps(
            chat,
            lambda: _accumulate_margin(chat, margin, settings),
            steps=settings.probe_steps,
            learning_rate=settings.probe_learning_rate,
        )
    region = choose_region(
        {
            "weight_tracking": change.neuron,
            "pathway": contributions(on_pairs, on_harmless),
            "selectivity": selectivities(on_pairs, on_harmless),
            "utility": useful,
        },
        settings.signal_weights,
        count=settings.neurons,
        layers=(layers[0], layers[-1]),
        per_layer=settings.per_layer,
        sites=list(chat.places),
    )
    return Located(
        region,
        tuple(layer.mean for layer in on_harmless.layers),
        tuple(margin),
        tuple(harmless),
        change.layer,
    )


def _sketch_widths(chat: ChatModel, layers: range) -> list[int]:
    """Where neurons may be chosen each one's weight change is needed; elsewhere only the layer's, for its profile."""
    return [EXACT_WIDTH if site.layer in layers else PROFILE_WIDTH for site in chat.sites]


def pair_dialogues(chat: ChatModel, pairs: Sequence[ContrastPair], *, limit: int) -> list[Dialogue]:
    """Unsafe and safe dialogue of each pair, alternating."""
    return [
        dialogue(chat, pair.prompt.conversation, answer, limit=limit, ended=ended)
        for pair in pairs
        for answer, ended in ((pair.unsafe, False), (pair.safe, True))
    ]


def _accumulate_margin(chat: ChatModel, margin: Sequence[Dialogue], settings: LocateSettings) -> None:
    """Adds the gradient of log p(y⁻|x) − log p(y⁺|x), the mean over the pairs, to the weights' `.grad`."""
    for group in by_length([len(item) for item in margin], tokens=settings.tokens_per_batch):
        batch = make_batch(
            [margin[index] for index in group],
            first_tokens=settings.first_tokens,
            first_weight=settings.first_weight,
            device=chat.device,
        )
        scores = answer_scores(chat, batch)
        signs = torch.tensor([-1.0 if index % 2 else 1.0 for index in group], device=scores.device)
        loss = (scores * signs).sum() / (len(margin) / 2)
        loss.backward()  # type: ignore[no-untyped-call]
