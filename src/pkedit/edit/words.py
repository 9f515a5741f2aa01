"""What an edit changed, in words: the tokens that each neuron's write vector promotes, before and after.

A plain logit lens (nostalgebraist 2020; of write vectors, Geva et al. 2022, section 3): the unembedding of the final
norm of the vector, as if nothing came between. A vector that passes a norm of its own behind the MLP passes it here. A
neuron whose activation is negative where answers begin promotes what the opposite of its vector does, so that is shown:
before and after with the sign that the edited neuron has, so that the lists differ by what the edit did to the vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkedit.edit.delta import WRITE, Delta
from pkedit.locate.region import NeuronId, Region
from pkedit.models.batches import Dialogue, make_batch
from pkedit.models.chat import ChatModel
from pkedit.models.family import SiteId
from pkedit.models.held_norms import norms_in
from pkedit.models.hooks import inputs_of, outputs_of
from pkedit.models.precision import arithmetic
from pkedit.models.quantised import shape_of_matrix
from pkedit.models.sequences import by_length
from pkedit.models.token_text import token_text

NEURONS, TOKENS = 24, 8


@dataclass(frozen=True)
class NeuronWords:
    """What one neuron promotes most, best first. `change`: ‖δ‖ / ‖w‖ of its write vector; `score`: in the region."""

    layer: int
    expert: int | None
    index: int
    score: float
    change: float
    before: list[str]
    after: list[str]


@dataclass(frozen=True)
class Words:
    """The neurons whose write vectors changed most, those first. `note` says how to read them."""

    note: str
    neurons: list[NeuronWords]


def words_of(
    chat: ChatModel,
    region: Region,
    delta: Delta,
    prompts: Sequence[Sequence[int]],
    *,
    tokens_per_batch: int,
    precision: str = "full",
) -> Words:
    """The words of at most `NEURONS` neurons.

    Args:
        chat: the model without the edit; the same again afterwards, bit for bit.
        region: the neurons with their scores.
        delta: the edit.
        prompts: harmful prompts as token ids; the sign of an activation is that of its mean at their last tokens,
            with the edit.
        tokens_per_batch: padded tokens in one pass.
        precision: of that pass, as in `arithmetic`; words are ranked in the precision of the weights.
    """
    changes = [
        (
            float(change.norm() / original.float().norm().clamp_min(1e-12)),
            NeuronId(layer.layer, index, layer.expert),
            at,
        )
        for layer in delta.layers
        if WRITE in layer.change
        for at, (index, change, original) in enumerate(
            zip(layer.neurons.tolist(), layer.change[WRITE], layer.original[WRITE], strict=True)
        )
    ]
    largest = sorted((one for one in changes if one[0] > 0), key=lambda one: -one[0])[:NEURONS]
    if not largest:
        return Words("The edit changed no write vectors.", [])
    if shape_of_matrix(chat.model.get_output_embeddings())[1] != chat.sites[0].hidden:
        return Words("Between the last norm and the words of this model stands another matrix: no words are given.", [])
    sites = sorted({neuron.site for _, neuron, _ in largest}, key=list(chat.places).index)
    with delta.applied_to(chat), arithmetic(chat, precision):
        signs = _signs(chat, sites, prompts, tokens_per_batch)
    norms = _norms_behind(chat, sites, prompts[0][:1])
    layers = {layer.site: layer for layer in delta.layers}
    directions = []
    for _, neuron, at in largest:
        original = layers[neuron.site].original[WRITE][at].float()
        for vector in (original, original + layers[neuron.site].change[WRITE][at]):
            directions.append(_added(chat, neuron.site, signs[neuron.site][neuron.index] * vector, norms))
    words = _promoted(chat, torch.stack(directions))
    scores = {neuron.id: neuron.score for neuron in region.neurons}
    found = [
        NeuronWords(neuron.layer, neuron.expert, neuron.index, scores.get(neuron, 0.0), change, before, after)
        for (change, neuron, _), before, after in zip(largest, words[::2], words[1::2], strict=True)
    ]
    negative = sum(bool(signs[neuron.site][neuron.index] < 0) for _, neuron, _ in largest)
    return Words(_note(len(prompts), negative, len(found)), found)


@torch.no_grad()
def _added(chat: ChatModel, site: SiteId, vector: Tensor, norms: dict[SiteId, nn.Module]) -> Tensor:
    """What an MLP's output adds to the residual stream, [hidden]: itself, or what a norm behind it makes of it."""
    states = torch.stack([vector, torch.zeros_like(vector)]).to(chat.places[site].device, chat.dtype)
    if site in norms:
        states = norms[site](states)
    # Zeros beside it show what a bias gives, which is no neuron's.
    return (states[0] - states[1]).to(chat.sites[-1].device)


@torch.no_grad()
def _promoted(chat: ChatModel, directions: Tensor) -> list[list[str]]:
    """The tokens whose logits rise most when the residual stream moves in each of the directions, [n, hidden]."""
    # Zeros again, for the biases of the final norm and of the head.
    logits = chat.head(chat.final_norm(torch.cat([directions, torch.zeros_like(directions[:1])])))
    best = (logits[:-1] - logits[-1:])[:, : len(chat.tokenizer)].topk(TOKENS).indices.tolist()
    return [[token_text(chat.tokenizer, token) for token in tokens] for tokens in best]


@torch.no_grad()
def _signs(
    chat: ChatModel, sites: Sequence[SiteId], prompts: Sequence[Sequence[int]], tokens_per_batch: int
) -> dict[SiteId, Tensor]:
    """+1 or −1 for each neuron of these MLPs, as its mean activation is at the last tokens of the prompts, [I]."""
    modules = [chat.places[at].write for at in sites]
    sums = {at: torch.zeros(chat.places[at].neurons) for at in sites}
    with chat.frozen():
        for group in by_length([len(prompt) for prompt in prompts], tokens=tokens_per_batch):
            dialogues = [Dialogue(tuple(prompts[index][:-1]), tuple(prompts[index][-1:])) for index in group]
            batch = make_batch(dialogues, first_tokens=0, first_weight=1.0, device=chat.device)
            width = batch.ids.shape[1]
            last = torch.tensor([row * width + len(item) - 1 for row, item in enumerate(dialogues)])

            def receive(number: int, activation: Tensor, last: Tensor = last) -> None:
                routed = chat.places[sites[number]].routed_tokens
                rows = last if routed is None else torch.isin(routed.cpu(), last).nonzero().squeeze(1)
                sums[sites[number]] += activation.flatten(0, -2)[rows.to(activation.device)].float().sum(0).cpu()

            with inputs_of(modules, receive):
                chat.body(input_ids=batch.ids, use_cache=False)
    return {at: torch.where(total < 0, -1.0, 1.0) for at, total in sums.items()}


@torch.no_grad()
def _norms_behind(chat: ChatModel, sites: Sequence[SiteId], prompt: Sequence[int]) -> dict[SiteId, nn.Module]:
    """The norm that an MLP's output passes before it joins the residual stream, of those MLPs that have one."""
    layers = {layer for layer, _ in sites}
    norms = [norm for layer in layers for norm in norms_in(chat.blocks[layer])]
    written: dict[int, Tensor] = {}
    found: dict[SiteId, nn.Module] = {}

    def normed(number: int, entering: Tensor) -> None:
        found.update({sites[place]: norms[number] for place, output in written.items() if output is entering})

    with (
        chat.frozen(),
        outputs_of([chat.places[at].write for at in sites], written.__setitem__),
        inputs_of(norms, normed),
    ):
        chat.body(input_ids=torch.tensor([list(prompt)], device=chat.device), use_cache=False)
    return found


def _note(prompts: int, negative: int, neurons: int) -> str:
    return (
        f"The {TOKENS} tokens whose logits a neuron's write vector raises most, by the unembedding of its final norm "
        f"(a plain logit lens). Where the edited neuron's mean activation at the last tokens of {prompts} "
        f"harmful prompts is negative ({negative} of {neurons}), both lists are of the opposite vector."
    )
