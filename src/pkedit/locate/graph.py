"""The activation pathway as a graph (PKE, section 3): from the prompt over attention and neurons to unsafe words.

With M = log p(y⁻|x) − log p(y⁺|x), a node has its contribution to M, and an edge between two of them the direct effect
of the first by way of the second (`direct.py`). What a node has from elsewhere is drawn as coming from the prompt, and
what it does in other ways as going to the unsafe words, so that as much flows into a node as out of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pkedit.locate.contributing import Contributions, contributions, harmless_means
from pkedit.locate.direct import Chosen, direct_effects
from pkedit.locate.passes import Passes
from pkedit.locate.region import NeuronId, Region
from pkedit.models.batches import Dialogue
from pkedit.models.chat import ChatModel, Progress
from pkedit.models.mixers import find_mixers

PROMPT, UNSAFE = "prompt", "unsafe"
# A picture holds about so many: neurons of the region, others, and attention blocks.
EDITED, OTHERS, BLOCKS = 24, 8, 6
# Edges from attention blocks, between neurons, from the prompt, and to the unsafe words; of each kind the strongest.
FROM_BLOCKS, BETWEEN_NEURONS, FROM_PROMPT, TO_UNSAFE = 12, 16, 16, 20


@dataclass(frozen=True)
class Node:
    """A neuron, or the attention block of a layer, with its contribution to M in nats. `edited`: is in the region."""

    layer: int
    contribution: float
    neuron: NeuronId | None = None
    edited: bool = False

    @property
    def name(self) -> str:
        """`attention.12`, `neuron.14.56`, or of an expert `neuron.14.3.56`."""
        if self.neuron is None:
            return f"attention.{self.layer}"
        expert = "" if self.neuron.expert is None else f"{self.neuron.expert}."
        return f"neuron.{self.layer}.{expert}{self.neuron.index}"


@dataclass(frozen=True)
class Edge:
    """How much of M, in nats, goes from one node to another; both by their names, PROMPT or UNSAFE."""

    source: str
    target: str
    weight: float


@dataclass(frozen=True)
class Pathway:
    """What was traced on `pairs` pairs. `attention` and `mlp`: the contribution of each layer's, in nats.

    `attention` is empty where the model's layers have no attention that could be told from their other parts.
    """

    pairs: int
    note: str
    attention: list[float]
    mlp: list[float]
    nodes: list[Node]
    edges: list[Edge]


def pathway_graph(
    chat: ChatModel,
    region: Region,
    margin: Sequence[Dialogue],
    harmless: Sequence[Dialogue],
    *,
    first_tokens: int,
    first_weight: float,
    tokens_per_batch: int,
    progress: Progress | None = None,
) -> Pathway:
    """Traces the pairs on the model as it is: a forward pass over `harmless`, and over `margin` two and one backward.

    Args:
        chat: the model, unedited; its weights are not touched.
        region: the edited neurons.
        margin: unsafe and safe dialogue of each pair, alternating.
        harmless: dialogues whose means are what contributions are measured from.
        first_tokens: answer tokens that weigh more.
        first_weight: how much more.
        tokens_per_batch: padded tokens in one pass.
        progress: called with dialogues done and in all.
    """
    pairs, total = len(margin) // 2, len(harmless) + 2 * len(margin)
    signs = [1.0, -1.0] * pairs

    def after(before: int) -> Progress | None:
        return None if progress is None else lambda done, _: progress(before + done, total)

    mixers = find_mixers(chat) or ()
    passes = Passes(
        chat,
        [*margin, *harmless],
        first_tokens=first_tokens,
        first_weight=first_weight,
        tokens_per_batch=tokens_per_batch,
    )
    with chat.frozen():
        means = harmless_means(passes, harmless, mixers, after(0))
        found = contributions(passes, margin, signs, means, mixers, after(len(harmless)))
        nodes = _nodes(chat, region, found, pairs)
        effects = torch.zeros(len(nodes), len(nodes))
        if mixers:
            chosen = Chosen(
                tuple(node.layer for node in nodes if node.neuron is None),
                tuple(node.neuron for node in nodes if node.neuron is not None),
            )
            before = after(len(harmless) + len(margin))
            effects = direct_effects(passes, margin, found.gradients, chosen, means, mixers, before) / pairs
    mlp = [0.0] * chat.layers
    for (layer, _), own in found.neurons.items():
        mlp[layer] += float(own.sum()) / pairs
    attention = [value / pairs for value in found.attention]
    note = _note(pairs, len(harmless), passes.shared, effects, drawn=len(mixers) > 0)
    return Pathway(pairs, note, attention, mlp, nodes, choose_edges(nodes, effects))


def _nodes(chat: ChatModel, region: Region, found: Contributions, pairs: int) -> list[Node]:
    """The attention blocks, the neurons of the region and the others that contribute most; of each kind by layers."""

    def value(neuron: NeuronId) -> float:
        return float(found.neurons[neuron.site][neuron.index])

    blocks = sorted(range(len(found.attention)), key=lambda layer: -abs(found.attention[layer]))[:BLOCKS]
    inside = {neuron.id for neuron in region.neurons}
    outside = []
    for at, own in found.neurons.items():
        excluded = [neuron.index for neuron in inside if neuron.site == at]
        size = own.abs().index_fill(0, torch.tensor(excluded, dtype=torch.long), -1.0)
        best = size.topk(min(OTHERS, len(size)))
        outside += [NeuronId(at[0], index, at[1]) for index in best.indices[best.values >= 0].tolist()]
    chosen = [sorted(some, key=lambda neuron: -abs(value(neuron))) for some in (inside, outside)]
    return [
        *(Node(layer, found.attention[layer] / pairs) for layer in sorted(blocks)),
        *(Node(one.layer, value(one) / pairs, one, edited=True) for one in sorted(chosen[0][:EDITED])),
        *(Node(one.layer, value(one) / pairs, one) for one in sorted(chosen[1][:OTHERS])),
    ]


def choose_edges(nodes: Sequence[Node], effects: Tensor) -> list[Edge]:
    """The strongest edges between nodes, and the largest of what is left of the nodes' contributions.

    What leads into a node or out of it sums to its contribution, unless the edge at its end is too weak to be kept.

    Args:
        nodes: of the graph.
        effects: weight of every edge between them, [from, to]; NaN where it is not known.
    """
    known = effects.nan_to_num(0.0)
    blocks: list[Edge] = []
    between: list[Edge] = []
    for source, target in known.nonzero().tolist():
        edge = Edge(nodes[source].name, nodes[target].name, float(known[source, target]))
        (blocks if nodes[source].neuron is None else between).append(edge)
    inner = [*_strongest(blocks, FROM_BLOCKS), *_strongest(between, BETWEEN_NEURONS)]
    entering, leaving = [], []
    for node in nodes:
        drawn_in = sum(edge.weight for edge in inner if edge.target == node.name)
        drawn_out = sum(edge.weight for edge in inner if edge.source == node.name)
        entering.append(Edge(PROMPT, node.name, node.contribution - drawn_in))
        leaving.append(Edge(node.name, UNSAFE, node.contribution - drawn_out))
    return [*inner, *_strongest(entering, FROM_PROMPT), *_strongest(leaving, TO_UNSAFE)]


def _strongest(edges: Sequence[Edge], count: int) -> list[Edge]:
    return sorted(edges, key=lambda edge: -abs(edge.weight))[:count]


def _note(pairs: int, harmless: int, shared: int, effects: Tensor, *, drawn: bool) -> str:
    text = (
        f"Mean over {pairs} pairs, in nats of M = log p(unsafe) - log p(safe), of the model before the edit, measured "
        f"from the means of {harmless} harmless dialogues and without the {shared} tokens that all prompts begin with. "
        "An edge between two nodes is the direct effect of the first by way of the second through the residual stream, "
        "to first order and with norms held; an edge from the prompt or to the unsafe words is the rest of a node's "
        "contribution, in all ways that are not drawn. Of each kind of edge the strongest are kept."
    )
    if not drawn:
        return (
            f"{text} Attention could not be told from the other parts of this model's layers, so there are no edges "
            "between nodes and no attention blocks."
        )
    unknown = int(effects.isnan().any(0).sum())
    if unknown:
        text += f" Edges into {unknown} neurons are left out: their experts do not read what their layer reads."
    return text
