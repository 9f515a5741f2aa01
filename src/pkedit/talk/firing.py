"""How far the neurons of an edit fire from what is usual on harmless prompts, where the answer begins."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from pkedit.edit.delta import Delta
from pkedit.locate.region import NeuronId
from pkedit.locate.selectivity import floored_deviation
from pkedit.models.chat import ChatModel
from pkedit.models.family import MlpSite
from pkedit.models.hooks import inputs_of
from pkedit.models.keys import lent, read_beginning
from pkedit.models.sequences import shared_beginning

# The share of activations on harmless prompts that is called usual.
USUAL = 0.95


class Recording:
    """Activations at chosen places of one pass; an expert that a token was not sent to has none there, 0."""

    def __init__(self, places: Sequence[int], sites: Sequence[MlpSite], neurons: Sequence[Tensor]) -> None:
        self._places = torch.tensor(list(places))
        self._sites, self._neurons = sites, neurons
        self._seen = [torch.zeros(len(places), len(own)) for own in neurons]

    def receive(self, number: int, activation: Tensor) -> None:
        """Takes the hidden activation of one MLP, [.., I]."""
        own = activation.reshape(-1, activation.shape[-1])[:, self._neurons[number].to(activation.device)]
        routed = self._sites[number].routed_tokens
        if routed is None:
            self._seen[number] = own[self._places.to(own.device)].float().cpu()
            return
        here = routed.cpu()[:, None] == self._places
        self._seen[number] = here.float().T @ own.float().cpu()

    def activations(self) -> Tensor:
        """[places, neurons] in float32."""
        return torch.cat(self._seen, 1)


class WatchedNeurons:
    """The neurons of an edit in one model, layers ascending."""

    def __init__(self, chat: ChatModel, delta: Delta) -> None:
        self._sites = [chat.places[layer.site] for layer in delta.layers]
        self._neurons = [layer.neurons for layer in delta.layers]
        self.ids = tuple(
            NeuronId(layer.layer, index, layer.expert) for layer in delta.layers for index in layer.neurons.tolist()
        )

    @contextmanager
    def recorded(self, places: Sequence[int]) -> Generator[Recording]:
        """Records one pass made inside. `places`: row · tokens + column of the tokens of interest."""
        recording = Recording(places, self._sites, self._neurons)
        with inputs_of([site.write for site in self._sites], recording.receive):
            yield recording


@dataclass(frozen=True)
class Fired:
    """A neuron on one prompt: how far from its mean on harmless prompts, in their standard deviations."""

    neuron: NeuronId
    base: float
    edited: float


@dataclass(frozen=True, eq=False)
class Usual:
    """What is usual at the last prompt token of `prompts` harmless prompts, in the model as it is.

    `mean` and `deviation`: [neurons]. `band`: so many deviations hold 95 % of all activations there.
    """

    ids: tuple[NeuronId, ...]
    mean: Tensor
    deviation: Tensor
    band: float
    prompts: int

    def distances(self, fired: Tensor) -> Tensor:
        """In deviations from the mean: [.., neurons]."""
        return (fired - self.mean) / self.deviation

    def farthest(self, base: Tensor, edited: Tensor, *, count: int) -> list[Fired]:
        """The neurons that are farthest off with the edit, farthest first. `base`, `edited`: activations, [neurons]."""
        without, with_edit = self.distances(base), self.distances(edited)
        order = with_edit.abs().argsort(descending=True, stable=True)[:count].tolist()
        return [Fired(self.ids[at], float(without[at]), float(with_edit[at])) for at in order]

    def spread(self, fired: Tensor) -> float:
        """The root mean square distance over all neurons."""
        return float(self.distances(fired).square().mean().sqrt())


def usual(chat: ChatModel, watched: WatchedNeurons, texts: Sequence[str]) -> Usual:
    """Reads harmless prompts once: one pass over what differs between them.

    Args:
        chat: the model, unedited.
        watched: the neurons.
        texts: two or more harmless user messages.
    """
    prompts = [chat.prompt_ids(text) for text in texts]
    with torch.inference_mode():
        if chat.cannot_reuse is None:
            seen = _together(chat, watched, prompts)
        else:
            seen = torch.cat([_alone(chat, watched, prompt) for prompt in prompts])
    deviation = floored_deviation(seen.var(0))
    band = ((seen - seen.mean(0)) / deviation).abs().flatten().quantile(USUAL)
    return Usual(watched.ids, seen.mean(0), deviation, float(band), len(prompts))


def _together(chat: ChatModel, watched: WatchedNeurons, prompts: Sequence[Sequence[int]]) -> Tensor:
    shared = shared_beginning(prompts)
    own = [prompt[shared:] for prompt in prompts]
    width = max(map(len, own))
    # Padding on the right: under causal attention no real token sees it.
    ids = torch.tensor([[*part, *[chat.tokenizer.pad_token_id] * (width - len(part))] for part in own])
    beginning = read_beginning(chat.model, prompts[0][:shared]) if shared else None
    with watched.recorded([row * width + len(part) - 1 for row, part in enumerate(own)]) as seen:
        chat.body(input_ids=ids.to(chat.device), past_key_values=lent(beginning, len(own)), use_cache=True)
    return seen.activations()


def _alone(chat: ChatModel, watched: WatchedNeurons, prompt: Sequence[int]) -> Tensor:
    with watched.recorded([len(prompt) - 1]) as seen:
        chat.body(input_ids=torch.tensor([list(prompt)], device=chat.device), use_cache=False)
    return seen.activations()
