"""What every neuron and every attention block adds to the preference for unsafe answers, on a few pairs.

As in `pathway.py`: Σ_tokens (a − ā)·∂M/∂a, ā its mean over the tokens of harmless dialogues; and of an attention block
the same with o, [hidden], what its last matrix gives to the residual stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pkedit.locate.passes import Passes
from pkedit.locate.trace import recallable
from pkedit.models.batches import Dialogue
from pkedit.models.chat import Progress
from pkedit.models.family import SiteId
from pkedit.models.hooks import gradients_from, inputs_of, outputs_of
from pkedit.models.mixers import Mixer
from pkedit.models.precision import gradient_scale


@dataclass(frozen=True)
class Means:
    """Means over tokens of harmless dialogues, in float32.

    `activations`: of each MLP's neurons, [I]; 0 for an expert that no token was sent to. `attention`: of what each
    layer's attention gives, [hidden].
    """

    activations: dict[SiteId, Tensor]
    attention: list[Tensor]


@dataclass(frozen=True)
class Contributions:
    """To Q: of each MLP's neurons [I], and of each layer's attention block.

    `gradients`: for each pass ∂Q/∂(what an MLP writes), [tokens that it saw, hidden], 0 at tokens that do not count, in
    main memory. The product with a write vector is ∂Q/∂a of its neuron, so these few numbers serve any neuron.
    """

    neurons: dict[SiteId, Tensor]
    attention: list[float]
    gradients: list[dict[SiteId, Tensor]]


@torch.no_grad()
def harmless_means(
    passes: Passes, dialogues: Sequence[Dialogue], mixers: Sequence[Mixer], progress: Progress | None = None
) -> Means:
    """One forward pass over the dialogues."""
    chat = passes.chat
    layers = [chat.sites_of(layer) for layer in range(len(mixers))]
    sums = {site.id: torch.zeros(site.neurons, device=site.device) for site in chat.sites}
    attention = [torch.zeros(chat.sites[0].hidden, device=sites[0].device) for sites in layers]
    tokens = dict.fromkeys(sums, 0)
    total = sum(len(item) - passes.shared for item in dialogues)
    done = 0
    for group in passes.groups(dialogues):
        items = [dialogues[index] for index in group]
        counted = passes.counted(items)

        def on_activation(number: int, activation: Tensor, counted: Tensor = counted) -> None:
            site = chat.sites[number]
            here = rows_of(counted, site.routed_tokens, activation)
            sums[site.id] += activation.flatten(0, -2)[here].float().sum(0)
            tokens[site.id] += int(here.sum())

        def on_attention(layer: int, output: Tensor, counted: Tensor = counted) -> None:
            attention[layer] += output.flatten(0, -2)[rows_of(counted, None, output)].float().sum(0)

        writes = [site.write for site in chat.sites]
        with inputs_of(writes, on_activation), outputs_of([mixer.write for mixer in mixers], on_attention):
            passes.run(passes.batch(items))
        done += len(group)
        if progress is not None:
            progress(done, len(dialogues))
    return Means({at: one / max(tokens[at], 1) for at, one in sums.items()}, [one / total for one in attention])


def contributions(
    passes: Passes,
    dialogues: Sequence[Dialogue],
    signs: Sequence[float],
    means: Means,
    mixers: Sequence[Mixer],
    progress: Progress | None = None,
) -> Contributions:
    """One forward and one backward pass over the dialogues, for Q = Σ sign · log p(answer | prompt).

    Gradients are taken with respect to activations; where the model is frozen, weights get none.
    """
    chat = passes.chat
    neurons = {site.id: torch.zeros(site.neurons, device=site.device) for site in chat.sites}
    attention = [0.0] * len(mixers)
    gradients: list[dict[SiteId, Tensor]] = []
    writes, scale = [site.write for site in chat.sites], gradient_scale(chat)
    done = 0
    for group in passes.groups(dialogues):
        items = [dialogues[index] for index in group]
        counted = passes.counted(items)

        def on_activation(number: int, activation: Tensor, counted: Tensor = counted) -> None:
            site = chat.sites[number]
            here, again = rows_of(counted, site.routed_tokens, activation), recallable(activation)

            def on_gradient(gradient: Tensor) -> None:
                away = again().flatten(0, -2)[here].float() - means.activations[site.id]
                neurons[site.id] += (away * gradient.flatten(0, -2)[here].float() / scale).sum(0)

            activation.register_hook(on_gradient)  # type: ignore[no-untyped-call]

        def on_output(number: int, output: Tensor, counted: Tensor = counted) -> None:
            site = chat.sites[number]
            here, kept = rows_of(counted, site.routed_tokens, output), gradients[-1]

            def on_gradient(gradient: Tensor) -> None:
                kept[site.id] = (gradient.flatten(0, -2) * here.unsqueeze(1) / scale).cpu()

            output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

        def on_attention(layer: int, output: Tensor, counted: Tensor = counted) -> None:
            here, given = rows_of(counted, None, output), output.detach()

            def on_gradient(gradient: Tensor) -> None:
                away = given.flatten(0, -2)[here].float() - means.attention[layer]
                attention[layer] += float((away * gradient.flatten(0, -2)[here].float() / scale).sum())

            output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

        gradients.append({})
        with (
            gradients_from(chat.blocks[0]),
            inputs_of(writes, on_activation),
            outputs_of(writes, on_output),
            outputs_of([mixer.write for mixer in mixers], on_attention),
        ):
            passes.run_back(passes.batch(items), [signs[index] for index in group])
        done += len(group)
        if progress is not None:
            progress(done, len(dialogues))
    return Contributions({at: one.cpu() for at, one in neurons.items()}, attention, gradients)


def rows_of(counted: Tensor, routed: Tensor | None, states: Tensor) -> Tensor:
    """Which rows of `states` count. Those of an expert are the tokens that were sent to it."""
    counted = counted.to(states.device)
    return counted if routed is None else counted[routed]
