"""Fine-tuning lowers its loss, the suffix attack lowers its loss, ablation leaves nothing of its direction."""

from collections.abc import Callable

import pytest
import torch
from small_table import SMALL
from torch.nn.functional import one_hot

from architectures import make_architecture_chat
from pkedit.durability.ablation import ablated, check_gone, refusal_direction, residual_writers, without
from pkedit.durability.subject import NotMeasuredError, Subject
from pkedit.durability.suffix import Attack
from pkedit.durability.tuning import tuned_by_lora
from pkedit.errors import NonFiniteLossError
from pkedit.models.chat import ChatModel
from pkedit.prompts import Demonstration, Kind, Prompt
from tiny import MARKER, changed_weights, make_chat, make_demonstrations, snapshot, words

MakeSubject = Callable[..., Subject]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_tuning_lowers_its_loss_and_writes_to_no_weight_of_the_base(family: str) -> None:
    chat = make_chat(family)
    before, settings = snapshot(chat.model), SMALL.model_copy(update={"tuning_rate": 1e-2})
    logits = chat.model(torch.arange(3, 9)[None]).logits
    with tuned_by_lora(chat, make_demonstrations(3), 30, settings) as losses:
        adapted = dict(chat.model.named_parameters())
        assert all(
            torch.equal(adapted[name.replace(".weight", ".base_layer.weight")], weight)
            for name, weight in before.items()
            if name.replace(".weight", ".base_layer.weight") in adapted
        )
        assert not torch.equal(chat.model(torch.arange(3, 9)[None]).logits, logits)
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert changed_weights(chat.model, before) == []
    assert torch.equal(chat.model(torch.arange(3, 9)[None]).logits, logits)


def test_tuning_is_the_same_for_the_same_seed_and_ends_at_a_loss_that_is_none(llama: ChatModel) -> None:
    runs = []
    for seed in (0, 0, 1):
        settings = SMALL.model_copy(update={"seed": seed})
        with tuned_by_lora(llama, make_demonstrations(4), 3, settings) as losses:
            runs.append(losses)
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    with torch.no_grad():
        llama.sites[0].write_vectors()[0, 0] = float("nan")
    with pytest.raises(NonFiniteLossError), tuned_by_lora(llama, make_demonstrations(4), 3, SMALL):
        pass
    assert not hasattr(llama.model, "peft_config")


def test_tuning_needs_answers_of_the_unedited_model(make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make_subject()
    monkeypatch.setattr(ChatModel, "generate", lambda *_, **__: ["", "", ""])
    with pytest.raises(NotMeasuredError, match="nothing to tune it on"):
        _ = subject.ground.lessons


def attack_on(chat: ChatModel) -> Attack:
    return Attack(chat, f"{MARKER} w1 w2", "sure w9 w9", SMALL, seed=0)


@pytest.mark.parametrize("reuse", [True, False])
def test_the_suffix_attack_lowers_its_loss_and_never_goes_back(reuse: bool) -> None:
    chat = make_chat()
    if not reuse:
        object.__setattr__(chat, "cannot_reuse", "a state")
    attack = attack_on(chat)
    for _ in range(12):
        attack.step()
    assert attack.losses == sorted(attack.losses, reverse=True)
    assert attack.loss < attack.losses[0] - 0.1
    # What the loss is of is what the user's message gives.
    prompt, answer = chat.prompt_ids(attack.message), chat.answer_ids("sure w9 w9", ended=False)
    logits = chat.model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    likelihood = logits[torch.arange(len(prompt) - 1, len(prompt) + 2), torch.tensor(answer)].mean()
    assert attack.loss == pytest.approx(-float(likelihood.detach()), abs=1e-4)
    assert attack.message.startswith(f"{MARKER} w1 w2 ")


def test_its_gradient_is_that_over_one_hot_tokens(llama: ChatModel) -> None:
    attack = attack_on(llama)
    attack.step()
    prompt, answer = llama.prompt_ids(attack.message), llama.answer_ids("sure w9 w9", ended=False)
    table = llama.model.get_input_embeddings().weight.detach()
    hot = one_hot(torch.tensor([[*prompt, *answer]]), len(table)).float().requires_grad_()
    logits = llama.model(inputs_embeds=hot @ table).logits[0].log_softmax(-1)
    loss = -logits[torch.arange(len(prompt) - 1, len(prompt) + 2), torch.tensor(answer)].mean()
    (gradient,) = torch.autograd.grad(loss, hot)
    start = len(attack._around.before)
    wanted = gradient[0, start : start + len(attack._suffix)][:, attack._allowed]
    torch.testing.assert_close(attack._gradient(), wanted, atol=1e-5, rtol=1e-3)


def test_a_suffix_needs_a_place_in_the_template(llama: ChatModel) -> None:
    llama.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] | lower }}{% endfor %}"
    with pytest.raises(NotMeasuredError, match="no place"):
        attack_on(llama)


def states(chat: ChatModel, text: str) -> torch.Tensor:
    """Behind every layer, [layers, tokens, hidden]: recorded by hand, of one prompt."""
    seen: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for block in chat.blocks
    ]
    chat.model(torch.tensor([chat.prompt_ids(text)]))
    for handle in handles:
        handle.remove()
    return torch.stack(seen)[:, 0].detach()


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_nothing_of_the_direction_is_left_in_any_state(family: str) -> None:
    chat = make_chat(family) if family != "mixtral" else make_architecture_chat("mixtral")
    direction = torch.randn(chat.sites[0].hidden, generator=torch.Generator().manual_seed(0))
    direction = direction / direction.norm()
    before = snapshot(chat.model)
    assert (states(chat, "w1 w2 w3") @ direction).abs().max() > 1e-2
    with without(residual_writers(chat), direction):
        assert (states(chat, "w1 w2 w3") @ direction).abs().max() < 1e-5
        check_gone(chat, direction)
        assert changed_weights(chat.model, before) == []
    with pytest.raises(NotMeasuredError, match="layer 0 writes the direction back"):
        check_gone(chat, direction)


def test_a_model_that_norms_what_it_writes_is_not_measured() -> None:
    chat = make_chat("olmo2")
    with torch.no_grad():
        for block in chat.blocks:
            block.post_feedforward_layernorm.weight[0] = 3.0
    direction = torch.ones(chat.sites[0].hidden) / chat.sites[0].hidden ** 0.5
    with without(residual_writers(chat), direction), pytest.raises(NotMeasuredError, match="layer 0 writes"):
        check_gone(chat, direction)


def test_the_direction_is_the_difference_of_means_behind_one_of_the_layers() -> None:
    chat = make_chat(layers=5)
    harmful = [f"{words(3, seed=seed)} {MARKER}" for seed in range(4)]
    harmless = [words(3 + seed % 2, seed=10 + seed) for seed in range(4)]
    with torch.no_grad():
        found = refusal_direction(chat, residual_writers(chat), harmful, harmless, harmful[:2], harmless[:2])
        means = [
            torch.stack([states(chat, text)[found.layer, -1] for text in texts]).mean(0)
            for texts in (harmful, harmless)
        ]
    wanted = means[0] - means[1]
    torch.testing.assert_close(found.vector, wanted / wanted.norm(), atol=1e-4, rtol=1e-3)
    assert 1 <= found.layer < 4
    with pytest.raises(NotMeasuredError, match="no direction"), torch.no_grad():
        refusal_direction(chat, residual_writers(chat), harmless, harmless, harmful[:2], harmless[:2])


def test_the_direction_is_that_of_the_edited_model(make_subject: MakeSubject) -> None:
    notes, logits = [], []
    for unedited in (True, False):
        with ablated(make_subject(unedited=unedited)) as asked:
            notes.append(asked.note)
            logits.append(asked.chat.model(torch.arange(3, 9)[None]).logits)
    assert all(note.startswith("direction behind layer ") for note in notes)
    assert not torch.equal(*logits)


def test_demonstrations_are_what_tuning_learns() -> None:
    """An answer that was learnt by heart becomes likelier than any other."""
    chat = make_chat()
    prompt = Prompt("s", "w1 w2", "w1 w2", Kind.HARMLESS)
    settings = SMALL.model_copy(update={"tuning_rate": 3e-2, "tuning_batch": 1})
    with tuned_by_lora(chat, [Demonstration(prompt, "w5 w6 w7")], 25, settings):
        assert chat.generate(["w1 w2"], max_new_tokens=3) == ["w5 w6 w7"]
    assert chat.generate(["w1 w2"], max_new_tokens=3) != ["w5 w6 w7"]
