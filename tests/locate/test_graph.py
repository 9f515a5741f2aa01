"""The pathway graph tells what differences tell: contributions, direct effects in every family, nothing invented."""

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from architectures import make_architecture_chat
from pkedit.locate import contributing, direct, passes
from pkedit.locate import graph as graph_module
from pkedit.locate.contributing import Contributions, Means, contributions, harmless_means
from pkedit.locate.direct import Chosen, direct_effects
from pkedit.locate.graph import PROMPT, UNSAFE, Edge, Node, Pathway, choose_edges, pathway_graph
from pkedit.locate.locating import pair_dialogues
from pkedit.locate.passes import Passes, shared_tokens
from pkedit.locate.region import NeuronId
from pkedit.models.batches import Dialogue, dialogue
from pkedit.models.chat import ChatModel
from pkedit.models.family import MlpSite, SiteId
from pkedit.models.held_norms import norms_in
from pkedit.models.hooks import added_outputs, inputs_of, outputs_of, replaced_inputs
from pkedit.models.mixers import Mixer, find_mixers
from tiny import (
    SYSTEM_TEMPLATE,
    answer_log_likelihood,
    changed_weights,
    leftovers,
    make_chat,
    make_demonstrations,
    make_pairs,
    make_region,
    snapshot,
    token,
)
from tiny import (
    UNSAFE as UNSAFE_WORD,
)

PAIRS = 2
SIGNS = [1.0, -1.0] * PAIRS
STEP = 0.004
# Pre-norm and gated; Conv1D; fused; norms before and behind; behind only; a residual inside the parts; layers
# in parallel, added in place; norms on the residual stream itself; mixtures, with scaled inputs, with a shared expert.
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("gpt2", {}),
    ("phi3", {}),
    ("gemma2", {}),
    ("olmo2", {}),
    ("bloom", {}),
    ("falcon", {}),
    ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    ("gpt_oss", {}),
    ("llama4_text", {"interleave_moe_layer_step": 1, "num_experts_per_tok": 2}),
    ("qwen2_moe", {}),
]


@dataclass(frozen=True)
class Traced:
    """What a graph is made from."""

    chat: ChatModel
    margin: list[Dialogue]
    passes: Passes
    mixers: tuple[Mixer, ...]
    means: Means
    found: Contributions


def dialogues_of(chat: ChatModel, pairs: int = PAIRS) -> tuple[list[Dialogue], list[Dialogue]]:
    kept = [dialogue(chat, item.prompt.text, item.answer) for item in make_demonstrations(3)]
    return pair_dialogues(chat, make_pairs(pairs), limit=8), kept


def traced(chat: ChatModel) -> Traced:
    margin, kept = dialogues_of(chat)
    mixers = find_mixers(chat)
    assert mixers is not None
    passes = Passes(chat, [*margin, *kept], first_tokens=1, first_weight=2.0, tokens_per_batch=30)
    with chat.frozen():
        means = harmless_means(passes, kept, mixers)
        found = contributions(passes, margin, SIGNS, means, mixers)
    return Traced(chat, margin, passes, mixers, means, found)


def graph(chat: ChatModel, region: Any, **changed: Any) -> Pathway:
    margin, kept = dialogues_of(chat)
    options = {"first_tokens": 1, "first_weight": 2.0, "tokens_per_batch": 30, **changed}
    return pathway_graph(chat, region, margin, kept, **options)


@dataclass
class Alone:
    """One dialogue by plain passes: what parts give and read, and gradients of its weighted log p at activations."""

    item: Dialogue
    outputs: dict[int, Tensor] = field(default_factory=dict)
    entering: dict[int, Tensor] = field(default_factory=dict)
    reading: dict[int, Tensor] = field(default_factory=dict)
    normed: dict[int, Tensor] = field(default_factory=dict)
    activations: dict[int, Tensor] = field(default_factory=dict)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    routed: dict[int, Tensor | None] = field(default_factory=dict)

    def tokens(self, place: int) -> Tensor:
        """Which tokens the rows of an MLP are."""
        routed = self.routed[place]
        return torch.arange(len(self.item)) if routed is None else routed


class ByDifference:
    """Edges as they are if one is pushed: everything else that attention, MLPs and norms do is held."""

    def __init__(self, seen: Traced) -> None:
        self.chat, self.seen = seen.chat, seen
        self.parts = [*(site.write for site in self.chat.sites), *(mixer.write for mixer in seen.mixers)]
        self.entrances = list({id(site.input_module): site.input_module for site in self.chat.sites}.values())
        self.norms = [
            norm
            for block, mixer in zip(self.chat.blocks, seen.mixers, strict=True)
            for norm in norms_in(block, without=mixer.module)
        ]
        self.alone = [self._recorded(item) for item in seen.margin]

    def _recorded(self, item: Dialogue) -> Alone:
        alone, sites = Alone(item), self.chat.sites

        def activated(place: int, activation: Tensor) -> None:
            alone.activations[place] = activation
            routed = sites[place].routed_tokens
            alone.routed[place] = None if routed is None else routed.clone()

        with (
            outputs_of(self.parts, lambda place, output: alone.outputs.__setitem__(place, output.detach().clone())),
            inputs_of(self.entrances, lambda place, states: alone.entering.__setitem__(place, states.detach())),
            inputs_of([site.reads[0].module for site in sites], lambda n, x: alone.reading.__setitem__(n, x.detach())),
            inputs_of(self.norms, lambda place, states: alone.normed.__setitem__(place, states.detach())),
            inputs_of([site.write for site in sites], activated),
        ):
            likelihoods = answer_log_likelihood(self.chat, item.prompt, item.answer)
        weight = torch.tensor([2.0] + [1.0] * (len(item.answer) - 1))
        score = (likelihoods * weight / weight.sum()).sum()
        places = list(alone.activations)
        found = torch.autograd.grad(score, [alone.activations[place] for place in places])
        alone.gradients = {place: one.flatten(0, -2) for place, one in zip(places, found, strict=True)}
        alone.activations = {place: one.detach().flatten(0, -2) for place, one in alone.activations.items()}
        return alone

    @torch.no_grad()
    def pushed(self, alone: Alone, part: int, push: Tensor, layer: int) -> dict[int, Tensor]:
        """The activations in one layer when `push` is added to what one part gives."""
        after: dict[int, Tensor] = {}
        given: dict[int, Tensor] = {}
        sites = [(place, site) for place, site in enumerate(self.chat.sites) if site.layer == layer]

        def held_part(place: int, _: Tensor, output: Tensor) -> Tensor:
            kept = alone.outputs[place].clone()
            return kept + push.view_as(kept) if place == part else kept

        def held_norm(place: int, states: Tensor, output: Tensor) -> Tensor:
            bias = getattr(self.norms[place], "bias", None)
            bias = 0.0 if bias is None else bias
            return (output - bias) * size(self.norms[place], states, alone.normed[place]) + bias

        def entered(place: int, states: Tensor) -> Tensor:
            given[place] = states
            return alone.entering[place]

        def read(number: int, _: Tensor) -> Tensor:
            place, site = sites[number // 2]
            entrance = next(n for n, module in enumerate(self.entrances) if module is top(self.chat, site))
            before, now = (one.reshape(-1, site.hidden) for one in (alone.entering[entrance], given[entrance]))
            rows, kept = alone.tokens(place), alone.reading[place]
            factor = (kept.reshape(-1, site.hidden).norm(dim=-1) / before[rows].norm(dim=-1)).unsqueeze(-1)
            return kept + (factor * (now - before)[rows]).view_as(kept)

        # Twice in the list, so that the place says which of two reads it is.
        reads = [site.reads[which % len(site.reads)].module for _, site in sites for which in range(2)]
        single = [module if reads.index(module) == at else nn.Identity() for at, module in enumerate(reads)]
        with ExitStack() as stack:
            stack.enter_context(added_outputs(self.norms, held_norm))
            stack.enter_context(added_outputs(self.parts, held_part))
            stack.enter_context(replaced_inputs(self.entrances, entered))
            stack.enter_context(replaced_inputs(single, read))
            stack.enter_context(
                inputs_of([site.write for _, site in sites], lambda n, a: after.__setitem__(sites[n][0], a.clone()))
            )
            ids = torch.tensor([[*alone.item.prompt, *alone.item.answer]])
            self.chat.body(input_ids=ids, use_cache=False)
        return {place: one.flatten(0, -2) for place, one in after.items()}

    def effects(self, chosen: Chosen) -> Tensor:
        """As `direct_effects`, [from, to]."""
        effects = torch.zeros(len(chosen), len(chosen))
        shared = self.seen.passes.shared
        places = {site.id: place for place, site in enumerate(self.chat.sites)}
        for alone, sign in zip(self.alone, SIGNS, strict=True):
            for source in range(len(chosen)):
                part, push = self._push(alone, chosen, source, places)
                if push is None:
                    continue
                lowest = 0 if part >= len(self.chat.sites) else self.chat.sites[part].layer + 1
                for layer in sorted({neuron.layer for neuron in chosen.neurons if neuron.layer >= lowest}):
                    more, less = (self.pushed(alone, part, step * push, layer) for step in (STEP, -STEP))
                    for target, neuron in enumerate(chosen.neurons, len(chosen.attention)):
                        place = places[neuron.site]
                        if neuron.layer != layer or place not in more:
                            continue
                        change = (more[place] - less[place])[:, neuron.index] / (2 * STEP)
                        value = change * alone.gradients[place][:, neuron.index]
                        effects[source, target] += sign * float(value[alone.tokens(place) >= shared].sum())
        return effects

    def _push(self, alone: Alone, chosen: Chosen, source: int, places: dict[SiteId, int]) -> tuple[int, Tensor | None]:
        """Where a source gives, and what of that is beyond its mean; none where no token reaches it."""
        means = self.seen.means
        if source < len(chosen.attention):
            layer = chosen.attention[source]
            part = len(self.chat.sites) + layer
            return part, alone.outputs[part] - means.attention[layer]
        neuron = chosen.neurons[source - len(chosen.attention)]
        place = places[neuron.site]
        if place not in alone.activations:
            return place, None
        away = alone.activations[place][:, neuron.index] - means.activations[neuron.site][neuron.index]
        return place, away.unsqueeze(1) * self.chat.places[neuron.site].write_vectors()[neuron.index].detach()


def size(norm: nn.Module, states: Tensor, before: Tensor) -> Tensor:
    """How much larger what a norm divides by has become."""
    centred = "LayerNorm" in type(norm).__name__
    parts = [one - one.mean(-1, keepdim=True) if centred else one for one in (states, before)]
    now, then = (one.norm(dim=-1, keepdim=True) for one in parts)
    return now / then


def top(chat: ChatModel, site: MlpSite) -> nn.Module:
    """What all tokens of the layer enter first: the module around the experts, where there are any."""
    sites = chat.sites_of(site.layer)
    return next((other.entrance for other in sites if other.entrance is not None), site.input_module)


def strongest(found: Contributions, per_layer: int = 2) -> tuple[NeuronId, ...]:
    """The neurons of every layer that contribute most."""
    every = sorted(
        (NeuronId(at[0], index, at[1]) for at, own in found.neurons.items() for index in range(len(own))),
        key=lambda neuron: -abs(float(found.neurons[neuron.site][neuron.index])),
    )
    layers = {neuron.layer for neuron in every}
    return tuple(one for layer in layers for one in [n for n in every if n.layer == layer][:per_layer])


@pytest.mark.parametrize(("family", "config"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_direct_effects_are_what_differences_give(family: str, config: dict[str, Any]) -> None:
    chat = make_architecture_chat(family, **config)
    before = snapshot(chat.model)
    seen = traced(chat)
    chosen = Chosen((0, 1), strongest(seen.found))
    with chat.frozen():
        effects = direct_effects(seen.passes, seen.margin, seen.found.gradients, chosen, seen.means, seen.mixers)
    expected = ByDifference(seen).effects(chosen)
    largest = float(expected.abs().max())
    assert largest > 1e-4
    torch.testing.assert_close(effects, expected, rtol=0.02, atol=0.005 * largest)
    # Nothing leads back, nor from one neuron of a layer to another.
    layers = [0, 1, *(neuron.layer for neuron in chosen.neurons)]
    backward = [(a, b) for a in range(len(chosen)) for b in range(2, len(chosen)) if layers[a] > layers[b]]
    assert all(effects[a, b] == 0 for a, b in backward)
    assert not effects[:, :2].any()
    assert changed_weights(chat.model, before) == []
    assert leftovers(chat.model) == []
    # The same where no attention is chosen, and so nothing below the first layer's neurons.
    alone = Chosen((), chosen.neurons)
    with chat.frozen():
        without = direct_effects(seen.passes, seen.margin, seen.found.gradients, alone, seen.means, seen.mixers)
    torch.testing.assert_close(without, effects[2:, 2:])


def chain() -> tuple[ChatModel, NeuronId, NeuronId]:
    """Coordinate 0 is written by one neuron of layer 0 and read by one of layer 2, which writes the unsafe word."""
    chat = make_chat("llama", layers=3, hidden=32, neurons=24, initializer_range=0.1)
    first, second = NeuronId(0, 5), NeuronId(2, 9)
    with torch.no_grad():
        chat.model.get_input_embeddings().weight[:, 0] = 0.0
        head = chat.model.get_output_embeddings().weight
        head[:, 0] = 0.0
        for site in chat.sites:
            site.write_vectors()[:, 0] = 0.0
            for which in range(2):
                site.read_vectors(which)[:, 0] = 0.0
            attention = site.block.self_attn
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
                projection.weight[:, 0] = 0.0
            attention.o_proj.weight[0] = 0.0
        chat.sites[0].write_vectors()[first.index] = 0.0
        chat.sites[0].write_vectors()[first.index, 0] = 3.0
        for which in range(2):
            chat.sites[2].read_vectors(which)[second.index, 0] = 1.0
        chat.sites[2].write_vectors()[second.index] = 2.0 * head[token(UNSAFE_WORD)]
    return chat, first, second


def test_a_planted_chain_is_found_with_the_weight_that_differences_give() -> None:
    chat, first, second = chain()
    found = graph(chat, make_region({0: [first.index], 2: [second.index]}))
    between = [edge for edge in found.edges if {edge.source, edge.target}.isdisjoint({PROMPT, UNSAFE})]
    between = [edge for edge in between if edge.source.startswith("neuron")]
    assert (between[0].source, between[0].target) == ("neuron.0.5", "neuron.2.9")
    assert abs(between[0].weight) > 5 * abs(between[1].weight)

    # M itself, with the second neuron's activation moved as the first moves it.
    seen = traced(chat)
    differences = ByDifference(seen)
    total = 0.0
    for alone, sign in zip(differences.alone, SIGNS, strict=True):
        part, push = differences._push(alone, Chosen((), (first,)), 0, {site.id: site.layer for site in chat.sites})
        assert push is not None
        more, less = (differences.pushed(alone, part, step * push, 2)[2] for step in (STEP, -STEP))
        change = (more - less)[:, second.index] / (2 * STEP)
        change[: seen.passes.shared] = 0.0
        up, down = (moved_score(chat, alone, second, step * change) for step in (STEP, -STEP))
        total += sign * (up - down) / (2 * STEP)
    assert between[0].weight == pytest.approx(total / PAIRS, rel=0.02)


@torch.no_grad()
def moved_score(chat: ChatModel, alone: Alone, neuron: NeuronId, change: Tensor) -> float:
    def move(_: int, activation: Tensor) -> Tensor:
        moved = activation.clone()
        moved[0, :, neuron.index] += change
        return moved

    with replaced_inputs([chat.sites[neuron.layer].write], move):
        likelihoods = answer_log_likelihood(chat, alone.item.prompt, alone.item.answer).double()
    weight = torch.tensor([2.0] + [1.0] * (len(alone.item.answer) - 1)).double()
    return float((likelihoods * weight / weight.sum()).sum())


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral"])
def test_contributions_are_those_of_each_dialogue_alone(family: str) -> None:
    chat = make_architecture_chat(family)
    seen = traced(chat)
    expected = {site.id: torch.zeros(site.neurons) for site in chat.sites}
    for alone, sign in zip(ByDifference(seen).alone, SIGNS, strict=True):
        for place, gradient in alone.gradients.items():
            at = chat.sites[place].id
            counted = alone.tokens(place) >= seen.passes.shared
            away = alone.activations[place] - seen.means.activations[at]
            expected[at] += sign * (away * gradient)[counted].sum(0)
    for at, own in seen.found.neurons.items():
        torch.testing.assert_close(own, expected[at], rtol=1e-3, atol=1e-5)


def test_an_attention_block_contributes_what_moving_it_toward_its_mean_takes_away(llama: ChatModel) -> None:
    seen = traced(llama)
    for layer, value in enumerate(seen.found.attention):

        def margin(step: float, layer: int = layer) -> float:
            def moved(_: int, __: Tensor, output: Tensor) -> Tensor:
                toward = seen.means.attention[layer] - output
                toward[:, : seen.passes.shared] = 0.0
                return output + step * toward

            total = 0.0
            with torch.no_grad(), added_outputs([seen.mixers[layer].write], moved):
                for item, sign in zip(seen.margin, SIGNS, strict=True):
                    weight = torch.tensor([2.0] + [1.0] * (len(item.answer) - 1))
                    likelihoods = answer_log_likelihood(llama, item.prompt, item.answer)
                    total += sign * float((likelihoods * weight / weight.sum()).sum())
            return total

        assert value == pytest.approx((margin(-STEP) - margin(STEP)) / (2 * STEP), rel=0.02)


def test_means_are_those_of_the_tokens_that_differ(llama: ChatModel) -> None:
    seen = traced(llama)
    _, kept = dialogues_of(llama)
    rows: list[Tensor] = []
    with torch.no_grad(), inputs_of([llama.sites[1].write], lambda _, one: rows.append(one[0, seen.passes.shared :])):
        for item in kept:
            llama.body(input_ids=torch.tensor([[*item.prompt, *item.answer]]), use_cache=False)
    torch.testing.assert_close(seen.means.activations[1, None], torch.cat(rows).mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "mixtral", "mistral"])
def test_reading_what_prompts_share_once_changes_nothing(family: str) -> None:
    chat = make_architecture_chat(family)
    chat.tokenizer.chat_template = SYSTEM_TEMPLATE
    region = make_region({1: [0, 3]}) if family != "mixtral" else region_of_experts()
    assert chat.cannot_reuse is None
    once, again = (graph(one, region) for one in (chat, replace(chat, cannot_reuse="test")))
    assert "without the 12 tokens that all prompts begin with" in once.note
    assert_alike(once, again)


def region_of_experts() -> Any:
    region = make_region({1: [0, 3]})
    return replace(region, neurons=tuple(replace(one, expert=one.index) for one in region.neurons))


def assert_alike(one: Pathway, other: Pathway) -> None:
    assert one.attention == pytest.approx(other.attention, rel=1e-3, abs=1e-6)
    assert one.mlp == pytest.approx(other.mlp, rel=1e-3, abs=1e-5)
    weights = [{(edge.source, edge.target): edge.weight for edge in graph.edges} for graph in (one, other)]
    largest = max(map(abs, weights[0].values()))
    common = weights[0].keys() & weights[1].keys()
    assert len(common) >= len(weights[0]) - 2
    assert all(weights[0][key] == pytest.approx(weights[1][key], rel=1e-2, abs=1e-4 * largest) for key in common)


def test_the_layers_sum_what_their_neurons_contribute_and_the_nodes_are_the_strongest(chat: ChatModel) -> None:
    region = make_region({0: list(range(12)), 1: list(range(20))})
    found = graph(chat, region)
    margin, kept = dialogues_of(chat)
    mixers = find_mixers(chat)
    passes = Passes(chat, [*margin, *kept], first_tokens=1, first_weight=2.0, tokens_per_batch=30)
    means = harmless_means(passes, kept, mixers or ())
    own = contributions(passes, margin, SIGNS, means, mixers or ())
    assert found.mlp == pytest.approx([float(own.neurons[layer, None].sum()) / PAIRS for layer in (0, 1)], rel=1e-3)
    assert found.attention == pytest.approx([value / PAIRS for value in own.attention], rel=1e-3)
    assert len(found.nodes) == 2 + 24 + 8
    inside = {neuron.id for neuron in region.neurons}
    values = {
        NeuronId(layer, index): abs(float(values[index])) / PAIRS
        for (layer, _), values in own.neurons.items()
        for index in range(len(values))
    }
    for edited in (True, False):
        chosen = {node.neuron: abs(node.contribution) for node in found.nodes if node.neuron and node.edited is edited}
        assert all((neuron in inside) is edited for neuron in chosen)
        left = [value for neuron, value in values.items() if (neuron in inside) is edited and neuron not in chosen]
        assert min(chosen.values()) >= max(left) - 1e-6


def test_as_much_flows_into_a_node_as_out_of_it(llama: ChatModel) -> None:
    found = graph(llama, make_region({0: [1, 2, 3], 1: [4, 5]}))
    names = {edge.source for edge in found.edges} | {edge.target for edge in found.edges}
    assert names <= {node.name for node in found.nodes} | {PROMPT, UNSAFE}
    whole = 0
    for node in found.nodes:
        entering = [edge for edge in found.edges if edge.target == node.name]
        leaving = [edge for edge in found.edges if edge.source == node.name]
        for edges, end in ((entering, PROMPT), (leaving, UNSAFE)):
            if any(end in (edge.source, edge.target) for edge in edges):
                assert sum(edge.weight for edge in edges) == pytest.approx(node.contribution, abs=1e-6)
                whole += 1
    assert whole > len(found.nodes)


def test_edges_that_are_not_known_are_left_out() -> None:
    nodes = [Node(0, 1.0, NeuronId(0, 0)), Node(1, 2.0, NeuronId(1, 0, 3))]
    effects = torch.tensor([[0.0, torch.nan], [0.0, 0.0]])
    assert {(edge.source, edge.target): edge.weight for edge in choose_edges(nodes, effects)} == {
        (PROMPT, "neuron.0.0"): 1.0,
        (PROMPT, "neuron.1.3.0"): 2.0,
        ("neuron.0.0", UNSAFE): 1.0,
        ("neuron.1.3.0", UNSAFE): 2.0,
    }
    effects[0, 1] = 0.5
    assert Edge("neuron.0.0", "neuron.1.3.0", 0.5) in choose_edges(nodes, effects)
    assert Edge(PROMPT, "neuron.1.3.0", 1.5) in choose_edges(nodes, effects)


def test_of_each_kind_of_edge_the_strongest_are_kept() -> None:
    blocks = [Node(0, 40.0)]
    neurons = [Node(1 + index // 8, 20.0, NeuronId(1 + index // 8, index)) for index in range(24)]
    nodes = [*blocks, *neurons]
    effects = torch.zeros(25, 25)
    effects[0, 1:] = torch.linspace(0.1, 0.9, 24) * torch.tensor([1.0, -1.0]).repeat(12)
    effects[1:9, 9:17] = torch.linspace(0.01, 0.99, 64).reshape(8, 8)
    edges = choose_edges(nodes, effects)
    kinds = {
        "from blocks": [edge for edge in edges if edge.source == "attention.0" and edge.target != UNSAFE],
        "between neurons": [edge for edge in edges if edge.source.startswith("neuron") and edge.target != UNSAFE],
        "from the prompt": [edge for edge in edges if edge.source == PROMPT],
        "to the unsafe words": [edge for edge in edges if edge.target == UNSAFE],
    }
    assert {kind: len(kept) for kind, kept in kinds.items()} == {
        "from blocks": 12,
        "between neurons": 16,
        "from the prompt": 16,
        "to the unsafe words": 20,
    }
    every = effects[0, 1:].abs().sort(descending=True).values[:12]
    assert sorted((abs(edge.weight) for edge in kinds["from blocks"]), reverse=True) == pytest.approx(every.tolist())
    every = effects[1:].abs().flatten().sort(descending=True).values[:16]
    assert [edge.weight for edge in kinds["between neurons"]] == pytest.approx(every.tolist())


def test_where_attention_is_not_clear_neither_it_nor_edges_are_given(llama: ChatModel) -> None:
    block: Any = llama.blocks[0]
    block.beside = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    found = graph(llama, make_region({0: [1], 1: [4]}))
    assert found.attention == []
    assert all(node.neuron is not None for node in found.nodes)
    assert all({edge.source, edge.target} & {PROMPT, UNSAFE} for edge in found.edges)
    assert "no edges between nodes" in found.note
    assert any(found.mlp)


def test_neurons_with_edges_that_are_not_known_are_counted_in_the_note(llama: ChatModel) -> None:
    effects = torch.zeros(4, 4)
    assert "left out" not in graph_module._note(2, 3, 1, effects, drawn=True)
    effects[:3, 1] = effects[0, 3] = torch.nan
    assert "Edges into 2 neurons are left out" in graph_module._note(2, 3, 1, effects, drawn=True)
    note = graph(llama, make_region({0: [1], 1: [4]})).note
    assert "no edges between nodes" not in note
    assert f"Mean over {PAIRS} pairs" in note
    assert "3 harmless dialogues" in note


def test_shared_tokens_end_before_the_last_of_the_shortest_prompt() -> None:
    assert shared_tokens([(1, 2, 3, 4), (1, 2, 9)]) == 2
    assert shared_tokens([(1, 2, 3), (1, 2, 3)]) == 2
    assert shared_tokens([(1, 2, 3, 4), (1, 2)]) == 1
    assert shared_tokens([(5, 2), (1, 2)]) == 0


def test_progress_counts_every_dialogue_of_the_three_passes(llama: ChatModel) -> None:
    steps: list[tuple[int, int]] = []
    # One dialogue in each pass.
    graph(llama, make_region({1: [4]}), tokens_per_batch=1, progress=lambda done, total: steps.append((done, total)))
    every = 3 + 2 * 2 * PAIRS
    assert steps == [(done, every) for done in range(1, every + 1)]


def test_what_gradients_are_multiplied_by_is_taken_out_again(llama: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in float16, where the small ones would be lost."""
    region = make_region({0: [1], 1: [4]})
    plain = graph(llama, region)
    for module in (passes, contributing):
        monkeypatch.setattr(module, "gradient_scale", lambda chat: 64.0)
    assert_alike(plain, graph(llama, region))


def test_the_strongest_attention_blocks_are_drawn() -> None:
    chat = make_chat("llama", layers=8)
    with torch.no_grad():
        chat.blocks[7].self_attn.o_proj.weight.mul_(20.0)
    found = graph(chat, make_region({1: [4]}))
    drawn = [node.layer for node in found.nodes if node.neuron is None]
    assert len(drawn) == 6
    assert drawn == sorted(drawn)
    left = [abs(value) for layer, value in enumerate(found.attention) if layer not in drawn]
    assert max(left) <= min(abs(found.attention[layer]) for layer in drawn)
    assert drawn != list(range(6)), "the first are no choice"


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e3])
def test_what_neurons_read_is_told_as_a_multiple_of_what_enters_up_to_rounding(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    entering = size * torch.randn(1, 5, 8, generator=generator)
    share = torch.tensor([[0.2], [0.9], [0.5]])
    rows = entering[0, [0, 2, 4]] * share
    away = torch.randn(3, 8, generator=generator)
    away -= (away * rows).sum(1, keepdim=True) / rows.square().sum(1, keepdim=True) * rows
    away *= rows.norm() / away.norm()

    def read(part: float) -> Tensor | None:
        return direct._factor(direct._Seen(rows + part * away, routed=torch.tensor([0, 2, 4])), entering)

    for part in (0.0, 0.025):
        factor = read(part)
        assert factor is not None
        torch.testing.assert_close(factor, share, rtol=1e-3, atol=1e-6)
    assert read(0.04) is None
    assert direct._factor(direct._Seen(rows[:, :4]), entering) is None
