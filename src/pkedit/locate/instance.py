"""Locates on one instance, from the tokens that decide alone: the prompt is read once and keeps its keys and values.

The signals are those of a region located on many pairs. What they compare the instance with, harmless answers, is
traced once for all instances.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pkedit.locate.region import Region, candidate_layers, choose_region
from pkedit.locate.selectivity import floored_deviation
from pkedit.locate.trace import Trace, summed, trace
from pkedit.locate.utility import utilities
from pkedit.locate.weights import lengths
from pkedit.models.batches import Dialogue, state_likelihoods
from pkedit.models.chat import ChatModel
from pkedit.models.frozen import FrozenPrompts
from pkedit.models.hooks import gradients_from, inputs_of, outputs_of
from pkedit.models.precision import gradient_scale
from pkedit.settings import LocateSettings


@dataclass(frozen=True)
class Harmless:
    """What every site showed on harmless answers: means and spreads in `trace`, and `utility`, [I] each."""

    trace: Trace
    utility: tuple[Tensor, ...]


@dataclass(frozen=True)
class LocatedInstance:
    """The region, and per layer the MLP's input where the answers begin, [1, hidden], for the gates to detect."""

    region: Region
    entering: dict[int, Tensor]


def trace_harmless(chat: ChatModel, dialogues: Sequence[Dialogue], settings: LocateSettings, *, seed: int) -> Harmless:
    """Traces harmless answers, whole; no instance changes what this gives."""
    seen = trace(
        chat,
        dialogues,
        [1.0] * len(dialogues),
        first_tokens=settings.first_tokens,
        first_weight=settings.first_weight,
        tokens_per_batch=settings.tokens_per_batch,
        seed=seed,
        sketch_widths=[0] * len(chat.sites),
    )
    return Harmless(summed(seen), utilities(seen))


def locate_instance(
    chat: ChatModel, cache: FrozenPrompts, unsafe: int, safe: int, harmless: Harmless, settings: LocateSettings
) -> LocatedInstance:
    """The neurons that prefer the unsafe answer of one instance (PKE, section 3), over the answers' tokens.

    A neuron's contribution is Σ (a − ā)·∂M/∂a over the last prompt token and the answers, not over the prompt, and its
    weight change is that of one step on these tokens, exactly. Selectivity compares one instance with harmless prompts,
    so only these have a spread.

    Args:
        chat: the model, as `cache` found it, with frozen weights.
        cache: holds both dialogues, read from the lowest candidate layer on.
        unsafe: the dialogue with the unsafe answer in `cache`.
        safe: the one with the safe answer.
        harmless: what the signals are compared with.
        settings: which neurons may be chosen, how many, and what the signals weigh.

    Raises:
        RegionError: no neuron matches the settings.
    """
    layers = candidate_layers(settings, chat.layers)
    places = [place for place, site in enumerate(chat.sites) if site.layer in layers]
    writes = [chat.sites[place].write for place in places]
    entering: dict[int, Tensor] = {}
    activations: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}
    batch = cache.batch([unsafe, safe], first=(settings.first_tokens, settings.first_weight))
    with (
        torch.enable_grad(),
        gradients_from(chat.blocks[layers[0]]),
        inputs_of([chat.sites_of(layer)[0].input_module for layer in layers], entering.__setitem__),
        inputs_of(writes, activations.__setitem__),
        outputs_of(writes, outputs.__setitem__),
    ):
        states = batch.at_answers(cache.final_states([unsafe, safe], batch))
        scores = batch.per_dialogue(state_likelihoods(chat, states, batch.target))
        margin = (scores[0] - scores[1]) * gradient_scale(chat)
        gradients = torch.autograd.grad(margin, [*activations.values(), *outputs.values()])
    weights = settings.signal_weights
    signals = {name: [torch.zeros(site.neurons, device=site.device) for site in chat.sites] for name in weights}
    for number, called in enumerate(activations):
        place = places[called]
        site, seen = chat.sites[place], harmless.trace.layers[place]
        activation = activations[called].detach().float().flatten(0, -2)
        gradient, arriving = (
            part.float().flatten(0, -2) / gradient_scale(chat) for part in gradients[number :: len(activations)]
        )
        signals["pathway"][place] = ((activation - seen.mean) * gradient).sum(0)
        signals["weight_tracking"][place] = _step_length(activation, arriving) / lengths(site.write_vectors())
        # Nothing is predicted from the last answer token, so it is not run.
        width = batch.ids.shape[1] - 1
        deciding = min(settings.first_tokens + 1, width)
        routed = site.routed_tokens
        tokens = torch.arange(2 * width, device=activation.device) if routed is None else routed
        # The first dialogue's tokens come first, and it has the unsafe answer.
        decision = activation[tokens < deciding].sum(0) / deciding
        spread = floored_deviation(seen.decision_variance)
        signals["selectivity"][place] = (decision - seen.decision_mean).abs() / spread
        signals["utility"][place] = harmless.utility[place]
    region = choose_region(
        signals,
        weights,
        count=settings.neurons,
        layers=(layers[0], layers[-1]),
        per_layer=settings.per_layer,
        sites=list(chat.places),
    )
    begins = {
        layers[number]: states.detach().reshape(len(batch), -1, states.shape[-1])[:1, 0]
        for number, states in entering.items()
    }
    return LocatedInstance(region, begins)


def _step_length(activation: Tensor, arriving: Tensor) -> Tensor:
    """Length of each column of Σ_t g_t a_tᵀ, [I], without the matrix: from products of few tokens.

    Args:
        activation: a, [tokens, I].
        arriving: g, the gradient at the MLP's output, [tokens, hidden].
    """
    return ((arriving @ arriving.T @ activation) * activation).sum(0).clamp_min(0.0).sqrt()
