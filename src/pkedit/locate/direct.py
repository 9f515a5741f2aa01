"""Direct effects: what a neuron or an attention block does to a later neuron through the residual stream alone.

The edge from j to i is Σ_tokens (a_j − ā_j) · w_j·∂a_i/∂x · ∂M/∂a_i: how far j is from its mean, what its write vector
w_j does to i's activation by way of i's read vectors and the norm before them (linearised, its statistics held), and
what i does to M. Of an attention block it is the same with o − ō, which is a vector already.

∂a_i/∂x comes from a pass in which everything that attention and MLPs give to the residual stream is cut off from
where it came from. So what the residual stream itself does on the way is counted whatever the family: other norms
(held too), multipliers, experts' shares. Other neurons, attention, and the choice of experts are not.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pkedit.locate.contributing import Means
from pkedit.locate.passes import Passes
from pkedit.locate.region import NeuronId
from pkedit.models.batches import AnswerBatch, Dialogue
from pkedit.models.chat import Progress
from pkedit.models.family import MlpSite, SiteId
from pkedit.models.held_norms import held, norms_in
from pkedit.models.hooks import added_outputs, inputs_of, outputs_of, replaced_inputs
from pkedit.models.mixers import Mixer

# How far what an expert reads may lie from a multiple of what its layer's MLP reads.
CLOSE = 0.03


@dataclass(frozen=True)
class Chosen:
    """What edges lead between: layers of attention blocks, and neurons. A place is a number of both in this order."""

    attention: tuple[int, ...]
    neurons: tuple[NeuronId, ...]

    def __len__(self) -> int:
        return len(self.attention) + len(self.neurons)

    def by_site(self) -> dict[SiteId, list[tuple[int, int]]]:
        """Of each MLP that has any: place and index of its neurons."""
        sites: dict[SiteId, list[tuple[int, int]]] = {}
        for place, neuron in enumerate(self.neurons, len(self.attention)):
            sites.setdefault(neuron.site, []).append((place, neuron.index))
        return sites


def direct_effects(
    passes: Passes,
    dialogues: Sequence[Dialogue],
    gradients: Sequence[dict[SiteId, Tensor]],
    chosen: Chosen,
    means: Means,
    mixers: Sequence[Mixer],
    progress: Progress | None = None,
) -> Tensor:
    """The weights of all edges, [from, to] by places, in units of the quantity that `gradients` are of.

    0 where nothing leads from one to the other. NaN into neurons of an expert that does not read what its layer does.

    Args:
        passes: how passes are made. The model's weights are not touched.
        dialogues: prompts with answers.
        gradients: as `contributions` gives them for the same dialogues.
        chosen: what edges lead between.
        means: ā and ō.
        mixers: the attention of every layer.
        progress: called with dialogues done and in all.
    """
    effects = torch.zeros(len(chosen), len(chosen))
    done = 0
    for group, of_pass in zip(passes.groups(dialogues), gradients, strict=True):
        items = [dialogues[index] for index in group]
        effects += _CutPass(passes, items, chosen, mixers).effects(of_pass, means)
        done += len(group)
        if progress is not None:
            progress(done, len(dialogues))
    return effects


@dataclass
class _Seen:
    """Of the chosen neurons of one MLP, at the tokens that it saw.

    `activation` [tokens, k]; `reading`, what the MLP reads, [tokens, hidden]; `outputs` of its read modules, and
    `slopes` of the neurons by their pre-activation, for each read matrix [tokens, k]; `routed`: which tokens these are,
    None for all.
    """

    reading: Tensor | None = None
    activation: Tensor | None = None
    routed: Tensor | None = None
    outputs: dict[int, Tensor] = field(default_factory=dict)
    slopes: list[Tensor] = field(default_factory=list)


class _CutPass:
    """A pass in which only the residual stream connects the layers, and what it showed."""

    def __init__(self, passes: Passes, dialogues: Sequence[Dialogue], chosen: Chosen, mixers: Sequence[Mixer]) -> None:
        self._chat = chat = passes.chat
        self._chosen = chosen
        self._places = chosen.by_site()
        self._seen = {at: _Seen() for at in self._places}
        self._vectors = {at: _vectors(chat.places[at], [index for _, index in own]) for at, own in self._places.items()}
        # What MLPs (by site) and attention (by layer) give to the residual stream, and what the MLPs of a layer read.
        self._given: dict[SiteId | int, Tensor] = {}
        self._entering: dict[int, Tensor] = {}
        self._run(passes, passes.batch(dialogues), mixers)

    def _run(self, passes: Passes, batch: AnswerBatch, mixers: Sequence[Mixer]) -> None:
        chat, sites = self._chat, [self._chat.places[at] for at in self._places]
        entrances = list({id(site.input_module): (site.layer, site.input_module) for site in chat.sites}.values())
        reads = [(site.id, module) for site in sites for module in {read.module: None for read in site.reads}]
        # What these read is cut off like an entrance, or they would have no slope where nothing below is a source.
        entered = {id(module) for _, module in entrances}
        others = [module for _, module in reads if id(module) not in entered]
        norms: list[nn.Module] = []
        like: list[Tensor] = []
        for layer, (block, mixer) in enumerate(zip(chat.blocks, mixers, strict=True)):
            site = chat.sites_of(layer)[0]
            found = norms_in(block, without=mixer.module)
            norms += found
            like += [torch.zeros(1, site.hidden, dtype=chat.dtype, device=site.device)] * len(found)

        def cut(key: SiteId | int, output: Tensor) -> Tensor:
            leaf = output.detach()
            if key in self._places or key in self._chosen.attention:
                leaf.requires_grad_()
                self._given[key] = leaf
            # A copy, for some families add to it in place.
            return leaf.clone()

        def enter(number: int, states: Tensor) -> Tensor:
            # What a layer's experts are entered by comes first, and their router behind it: it is cut off.
            self._entering.setdefault(entrances[number][0], states)
            return states.detach().requires_grad_()

        with ExitStack() as stack:
            enter_context = stack.enter_context
            enter_context(held(norms, like))
            enter_context(added_outputs([mixer.write for mixer in mixers], lambda layer, _, output: cut(layer, output)))
            enter_context(
                added_outputs([site.write for site in chat.sites], lambda n, _, output: cut(chat.sites[n].id, output))
            )
            enter_context(replaced_inputs([module for _, module in entrances], enter))
            enter_context(replaced_inputs(others, lambda _, states: states.detach().requires_grad_()))
            enter_context(inputs_of([site.reads[0].module for site in sites], lambda n, x: self._read(sites[n].id, x)))
            enter_context(
                outputs_of(
                    [module for _, module in reads],
                    lambda n, output: self._seen[reads[n][0]].outputs.__setitem__(id(reads[n][1]), output),
                )
            )
            enter_context(inputs_of([site.write for site in sites], lambda n, a: self._activated(sites[n].id, a)))
            passes.run(batch)

    def _read(self, at: SiteId, states: Tensor) -> None:
        self._seen[at].reading = states.detach().flatten(0, -2)

    def _activated(self, at: SiteId, activation: Tensor) -> None:
        site, seen = self._chat.places[at], self._seen[at]
        own = torch.tensor([index for _, index in self._places[at]], device=activation.device)
        columns = activation.flatten(0, -2)[:, own]
        # A neuron depends on its own pre-activations alone, so the sum gives each its own slope.
        slopes = dict(zip(seen.outputs, torch.autograd.grad(columns.sum(), list(seen.outputs.values())), strict=True))
        seen.slopes = [
            slopes[id(read.module)].flatten(0, -2)[:, site.read_outputs(which, own)].float()
            for which, read in enumerate(site.reads)
        ]
        seen.activation, seen.routed = columns.detach().float(), site.routed_tokens
        seen.outputs.clear()

    def effects(self, gradients: dict[SiteId, Tensor], means: Means) -> Tensor:
        """The weights of the edges, [from, to]."""
        effects = torch.zeros(len(self._chosen), len(self._chosen))
        sources = list(self._given.items())
        for at, targets in self._places.items():
            entering, seen = self._entering.get(at[0]), self._seen[at]
            if entering is None or seen.activation is None or at not in gradients or not entering.requires_grad:
                continue
            factor = _factor(seen, entering)
            write, reads = self._vectors[at]
            # ∂M/∂a of the neurons, [tokens, k].
            wanted = gradients[at].to(write) @ write.T
            for column, (place, _) in enumerate(targets):
                if factor is None:
                    effects[:, place] = torch.nan
                    continue
                # ∂M/∂a_i times the slope of a_i by what the MLP reads, at every token.
                toward = sum(
                    slope[:, column : column + 1] * read[column] for slope, read in zip(seen.slopes, reads, strict=True)
                )
                toward = toward * wanted[:, column : column + 1] * factor
                flat = toward if seen.routed is None else _spread(toward, seen.routed, entering)
                slopes = torch.autograd.grad(
                    entering,
                    [leaf for _, leaf in sources],
                    flat.view_as(entering).to(entering.dtype),
                    retain_graph=True,
                    allow_unused=True,
                )
                for (source, leaf), slope in zip(sources, slopes, strict=True):
                    if slope is not None:
                        self._add(effects[:, place], source, leaf, slope.float(), means)
        return effects

    def _add(self, into: Tensor, source: SiteId | int, leaf: Tensor, slope: Tensor, means: Means) -> None:
        """Adds what one attention block or the chosen neurons of one MLP do along `slope`."""
        if isinstance(source, int):
            away = leaf.detach().float() - means.attention[source]
            into[self._chosen.attention.index(source)] += float((away * slope).sum())
            return
        places, indices = zip(*self._places[source], strict=True)
        activation, write = self._seen[source].activation, self._vectors[source][0]
        assert activation is not None
        away = activation - means.activations[source][list(indices)]
        into[list(places)] += (away * (slope.flatten(0, -2) @ write.T)).sum(0).cpu()


def _vectors(site: MlpSite, neurons: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Write vectors and, for each read matrix, read vectors of some neurons, [k, hidden] in float32."""
    reads = [site.read_vectors(which)[neurons].float() for which in range(len(site.reads))]
    return site.write_vectors()[neurons].float(), reads


def _factor(seen: _Seen, entering: Tensor) -> Tensor | None:
    """What the neurons read as a multiple of what enters their layer's MLP, [tokens, 1]; None where it is no multiple.

    It is 1 but where the router's share is put on before the experts.
    """
    states = entering.detach().flatten(0, -2)
    states = (states if seen.routed is None else states[seen.routed]).float()
    reading = seen.reading
    assert reading is not None
    if reading.shape != states.shape:
        return None
    factor = (reading.float() * states).sum(-1, keepdim=True) / states.square().sum(-1, keepdim=True).clamp_min(1e-20)
    close = (reading.float() - factor * states).norm() <= CLOSE * reading.float().norm()
    return factor if close else None


def _spread(rows: Tensor, routed: Tensor, entering: Tensor) -> Tensor:
    """The rows of an expert's tokens at their places among all tokens, [tokens, hidden]."""
    every = rows.new_zeros(entering.shape[:-1].numel(), entering.shape[-1])
    return every.index_add(0, routed, rows)
