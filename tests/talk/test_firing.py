"""Which neurons fired, measured against harmless prompts where the answer begins."""

import pytest
import torch
from talking import LIMIT, QUESTION, make_delta, make_subject
from torch import Tensor

from architectures import make_architecture
from pkedit.edit.delta import Delta
from pkedit.edit.hooked import HookedDelta
from pkedit.locate.region import Region, RegionNeuron
from pkedit.models.chat import ChatModel
from pkedit.models.hooks import inputs_of
from pkedit.talk.conversation import Conversation, Side
from pkedit.talk.firing import WatchedNeurons, usual
from pkedit.talk.subject import Subject
from tiny import SYSTEM_TEMPLATE, assemble, leftovers, make_region, planted_chat, words

TEXTS = [words(3 + number % 3, seed=number) for number in range(8)]


@torch.no_grad()
def directly(chat: ChatModel, delta: Delta, text: str) -> Tensor:
    """The neurons' activations at the last prompt token, by a plain pass: [neurons]."""
    seen: dict[int, Tensor] = {}
    sites = [chat.places[layer.site] for layer in delta.layers]
    with inputs_of([site.write for site in sites], lambda place, tensor: seen.update({place: tensor})):
        chat.model(torch.tensor([chat.prompt_ids(text)]), use_cache=False)
    width = len(chat.prompt_ids(text))
    return torch.cat([seen[place].reshape(width, -1)[-1, layer.neurons] for place, layer in enumerate(delta.layers)])


@pytest.mark.parametrize("shared", [False, True])
def test_usual_is_mean_and_deviation_at_the_last_prompt_token(chat: ChatModel, shared: bool) -> None:
    if shared:
        chat.tokenizer.chat_template = SYSTEM_TEMPLATE
    delta = make_delta(chat)
    found = usual(chat, WatchedNeurons(chat, delta), TEXTS)
    expected = torch.stack([directly(chat, delta, text) for text in TEXTS])
    assert torch.allclose(found.mean, expected.mean(0), atol=1e-4)
    floor = expected.var(0).median()
    assert torch.allclose(found.deviation, expected.var(0).maximum(floor).sqrt(), rtol=1e-3)
    inside = found.distances(expected).abs() <= found.band
    assert 0.9 <= float(inside.float().mean()) <= 1.0
    assert found.prompts == len(TEXTS)
    assert not leftovers(chat.model)


def test_a_conversation_records_both_sides_where_the_answer_begins() -> None:
    subject = make_subject()
    conversation = Conversation(subject, limit=LIMIT, watched=WatchedNeurons(subject.chat, subject.delta))
    assert conversation.fired(Side.BASE) is None
    for _ in conversation.ask(QUESTION):
        pass
    base, edited = conversation.fired(Side.BASE), conversation.fired(Side.EDITED)
    assert base is not None
    assert edited is not None
    assert torch.allclose(base, directly(subject.chat, subject.delta, QUESTION), atol=1e-5)
    with subject.delta.applied_to(subject.chat):
        assert torch.allclose(edited, directly(subject.chat, subject.delta, QUESTION), atol=1e-5)
    assert not torch.allclose(base, edited, atol=1e-2)


def test_the_farthest_neurons_come_first_with_both_distances() -> None:
    subject = make_subject()
    found = usual(subject.chat, WatchedNeurons(subject.chat, subject.delta), TEXTS)
    edited = found.mean + found.deviation * torch.tensor([1.0, -5.0, 0.5, 3.0, -2.0])
    fired = found.farthest(found.mean, edited, count=3)
    assert [(one.neuron.layer, one.neuron.index) for one in fired] == [(0, 5), (1, 7), (1, 23)]
    assert [round(one.edited, 3) for one in fired] == [-5.0, 3.0, -2.0]
    assert all(one.base == 0.0 for one in fired)
    assert found.spread(edited) == pytest.approx((39.25 / 5) ** 0.5)


def test_a_neuron_that_hears_the_marker_is_the_one_that_fired() -> None:
    planted = planted_chat()
    chat = planted.chat
    region = make_region({planted.layer: [1, planted.index, 20]})
    delta = HookedDelta(chat, region, ("write",)).freeze()
    subject = Subject(chat, delta, source="test")
    watched = WatchedNeurons(chat, delta)
    found = usual(chat, watched, TEXTS)
    conversation = Conversation(subject, limit=2, watched=watched)
    for _ in conversation.ask("w1 bomb w2"):
        pass
    base, edited = conversation.fired(Side.BASE), conversation.fired(Side.EDITED)
    assert base is not None
    assert edited is not None
    assert found.farthest(base, edited, count=1)[0].neuron.index == planted.index


def test_an_expert_that_did_not_see_the_token_fires_at_0() -> None:
    chat = assemble(make_architecture("qwen3_moe"))
    experts = [site.id for site in chat.sites if site.expert is not None and site.layer == 1]
    neurons = tuple(
        RegionNeuron(layer, index, score=0.0, expert=expert) for layer, expert in experts for index in (0, 3)
    )
    delta = HookedDelta(chat, Region(neurons, {"given": 1.0}), ("write",)).freeze()
    watched = WatchedNeurons(chat, delta)
    ids = chat.prompt_ids(QUESTION)
    with torch.no_grad(), watched.recorded([len(ids) - 1]) as seen:
        chat.body(input_ids=torch.tensor([ids]), use_cache=False)
    fired = seen.activations()[0].reshape(len(experts), 2)
    asleep = int((fired == 0).all(1).sum())
    assert asleep == len(experts) - chat.model.config.num_experts_per_tok
    alone = usual(chat, watched, TEXTS)
    assert alone.mean.shape == (2 * len(experts),)
