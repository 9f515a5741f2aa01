"""Edits at one point of the settings after another, with everything computed once that no searched setting changes.

That is the trace behind the signals (only the choice of the region is made anew), every prompt read by the unedited
model up to where its answer is decided, and the detectors in which gates begin.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pkedit.edit.delta import GATE, Delta
from pkedit.edit.detector import detectors
from pkedit.edit.editor import StepLosses, train
from pkedit.edit.examples import make_examples
from pkedit.edit.hooked import HookedDelta
from pkedit.edit.strength import Strength, choose_strength
from pkedit.locate.locating import locate
from pkedit.locate.region import Region, candidate_layers, choose_region
from pkedit.models.chat import ChatModel, Progress
from pkedit.models.family import SiteId
from pkedit.models.frozen import FrozenPrompts
from pkedit.models.memory import give_back_freed_memory
from pkedit.models.precision import arithmetic
from pkedit.models.prefix import PrefixCache
from pkedit.prompts import ContrastPair, Demonstration, Prompt
from pkedit.settings import LocateSettings, RunSettings


class Regions:
    """All signals of all neurons that may be chosen, traced once, and the region that given settings choose."""

    def __init__(
        self,
        chat: ChatModel,
        pairs: Sequence[ContrastPair],
        kept: Sequence[Demonstration],
        settings: RunSettings,
        progress: Progress | None = None,
    ) -> None:
        options = settings.locate
        # A region of all candidates holds what each of them showed.
        signals = {name: 1.0 for name, weight in options.signal_weights.items() if weight}
        everything = {"neurons": chat.neurons, "per_layer": None, **signals}
        whole = locate(
            chat, pairs, kept, options.model_copy(update=everything), seed=settings.seed, progress=progress
        ).region
        self._totals = whole.layer_totals
        self._layers = candidate_layers(options, chat.layers)
        self._sites = [site for site in chat.places if site[0] in self._layers]
        self._signals = _by_signal(whole, self._sites)

    def choose(self, settings: LocateSettings) -> Region:
        """What `locate` would choose.

        Raises:
            RegionError: no signal has any weight.
        """
        region = choose_region(
            self._signals,
            {name: weight for name, weight in settings.signal_weights.items() if name in self._signals},
            count=settings.neurons,
            layers=(self._layers[0], self._layers[-1]),
            per_layer=settings.per_layer,
            sites=self._sites,
        )
        return replace(region, layer_totals=self._totals)


class Edits:
    """The prompts of an edit, read once, and the delta that given settings learn from them."""

    def __init__(
        self,
        chat: ChatModel,
        pairs: Sequence[ContrastPair],
        kept: Sequence[Demonstration],
        held_out: Sequence[Prompt],
        settings: RunSettings,
    ) -> None:
        self._chat, self._held_out = chat, held_out
        options = settings.edit
        layers = candidate_layers(settings.locate, chat.layers)
        self._examples = make_examples(chat, pairs, kept, options)
        harmful = [example.role != "harmless" for example in self._examples]
        kind = FrozenPrompts if options.frozen_prompts and chat.cannot_reuse is None else PrefixCache
        with chat.frozen(), arithmetic(chat, options.precision, cast_once=True):
            self._cache = kind(
                chat,
                [example.dialogue for example in self._examples],
                # Wherever in these layers a region begins, below them nothing changes.
                layers[0],
                first_tokens=options.first_tokens,
                first_weight=options.first_weight,
                tokens_per_batch=options.tokens_per_batch,
                keep_final=[index for index, of_harm in enumerate(harmful) if not of_harm],
            )
            self._cache.prepare(range(len(self._examples)))
            self._detectors: dict[int, Tensor] = {}
            if options.gate_detector and GATE in options.parts:
                self._detectors = detectors(chat, list(layers), self._cache, harmful)

    def learn(
        self,
        region: Region,
        settings: RunSettings,
        progress: Callable[[StepLosses, int], None] | None = None,
        tried: Callable[[int, Strength], None] | None = None,
    ) -> Delta:
        """What `edit` would learn, at the strength that it would choose. Steps and strengths are told as `edit` does.

        Raises:
            NonFiniteLossError: a loss became NaN or Inf.
        """
        chat, options = self._chat, settings.edit
        hooked = HookedDelta(chat, region, options.parts, relative=options.relative_learning_rate)
        with chat.frozen(), arithmetic(chat, options.precision, cast_once=True):
            if self._detectors:
                hooked.open_gates(self._detectors, options.gate_detector)
            train(chat, hooked, self._cache, self._examples, options, progress)
        give_back_freed_memory()
        delta = hooked.freeze()
        return delta * choose_strength(chat, delta, self._held_out, options, tried).factor


def _by_signal(whole: Region, sites: Sequence[SiteId]) -> dict[str, list[Tensor]]:
    """Each signal as one tensor [neurons] per MLP."""
    rows: dict[SiteId, list[tuple[int, dict[str, float]]]] = {site: [] for site in sites}
    for neuron in whole.neurons:
        rows[neuron.layer, neuron.expert].append((neuron.index, neuron.values))
    for own in rows.values():
        own.sort(key=lambda row: row[0])
    return {
        name: [torch.tensor([values[name] for _, values in rows[site]]) for site in sites] for name in whole.signals
    }
