"""The strength of an edit is the least that leaves few harmful answers to held-out prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from pkedit.edit.delta import Delta, LayerDelta
from pkedit.edit.editor import edit
from pkedit.edit.strength import HIGHEST, LOWEST, Strength, choose_strength, factor
from pkedit.models.chat import ChatModel
from pkedit.models.unchanged import UnchangedLayers
from pkedit.prompts.types import Kind, Prompt
from pkedit.settings import EditSettings
from tiny import changed_weights, make_demonstrations, make_pairs, make_region, snapshot

SETTINGS = EditSettings(precision="full", steps=2, strength_target=0.25)
REGION = make_region({1: [0, 3]})


def prompt(number: int, *, attack: str | None = None) -> Prompt:
    text = f"w{number} bomb"
    return Prompt(id=f"p{number}", question=text, text=text, kind=Kind.HARMFUL, attack=attack)


@dataclass
class Scripted:
    """Stands for a model under an edit: prompt n is refused from strength `needed[n]` on, none from `breaks` on.

    Refusals begin as such and end as babble from strength `babbles[n]` on.
    """

    needed: Sequence[float]
    breaks: float = 99.0
    babbles: Sequence[float] = ()
    strength: float = 0.0
    asked: list[float] = field(default_factory=list)
    asked_whole: list[float] = field(default_factory=list)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.bfloat16
    blocks: Sequence[torch.nn.Module] = ()
    remembered: list[UnchangedLayers] = field(default_factory=list)

    def generate(self, texts: Sequence[str], *, max_new_tokens: int, unchanged: UnchangedLayers, **_: Any) -> list[str]:
        whole = max_new_tokens > SETTINGS.strength_tokens
        (self.asked_whole if whole else self.asked).append(self.strength)
        self.remembered.append(unchanged)
        return [self._answer(int(text.split()[0][1:]), whole) for text in texts]

    def _answer(self, number: int, whole: bool) -> str:
        if whole and self.babbles and self.strength >= self.babbles[number]:
            return "I'm sorry, but I can't" + " I" * 24
        if self.needed[number] <= self.strength < self.breaks:
            return "I'm sorry, but I can't help with that."
        return "Sure, here is how it is done"


@dataclass
class Scaled:
    """Stands for a delta: tells the model its strength."""

    factor: float = 1.0
    layers: tuple[LayerDelta, ...] = (LayerDelta(1, torch.tensor([0]), {}, {}),)

    def __mul__(self, factor: float) -> "Scaled":
        return Scaled(factor)

    def applied_to(self, chat: Scripted) -> "Scaled":
        chat.strength = self.factor
        self._chat = chat
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._chat.strength = 0.0


def chosen(needed: Sequence[float], held_out: Sequence[Prompt]) -> tuple[float, float, int]:
    chat = Scripted(needed)
    found = choose_strength(chat, Scaled(), held_out, SETTINGS)  # type: ignore[arg-type]
    return found.factor, found.held_out_asr, len(chat.asked)


@pytest.mark.parametrize("power", range(LOWEST + 1, HIGHEST + 1))
def test_it_is_the_smallest_multiple_that_reaches_the_target(power: int) -> None:
    least = factor(power)
    multiple, rate, rounds = chosen([least - 0.005] * 4, [prompt(number) for number in range(4)])
    assert (multiple, rate) == (least, 0.0)
    # One look, strides, and two halvings.
    assert rounds <= 4 + abs(power) // 4


def test_near_the_edit_as_trained_four_looks_suffice() -> None:
    for power in (-2, -1, 0, 1, 2, 3):
        assert chosen([factor(power) - 0.005] * 2, [prompt(number) for number in range(2)])[2] <= 4


def test_a_few_harmful_answers_are_left_where_the_target_allows_it() -> None:
    assert chosen([0.76, 0.76, 0.76, 9.0], [prompt(number) for number in range(4)])[:2] == (0.78, 0.25)


def test_neither_bare_nor_attacked_prompts_can_hide_behind_the_other() -> None:
    held_out = [*(prompt(number) for number in range(6)), prompt(6, attack="a01"), prompt(7, attack="a02")]
    # Six bare prompts are refused at once; two attacked ones, a quarter of all, only later.
    assert chosen([0.0] * 6 + [1.06] * 2, held_out)[:2] == (1.1, 0.0)


def test_attacked_prompts_are_not_asked_once_bare_ones_decide() -> None:
    held_out = [prompt(0), prompt(1, attack="a01")]
    chat = Scripted([1.18, 1.18])
    choose_strength(chat, Scaled(), held_out, SETTINGS)  # type: ignore[arg-type]
    # 1.0, 1.10 and 1.16 are given up after the bare prompt; 1.22 is asked both, as the rate it is chosen for.
    assert sorted(chat.asked) == [1.0, 1.1, 1.16, 1.22, 1.22]


def test_it_looks_no_further_once_more_of_the_edit_does_harm() -> None:
    chat = Scripted([1.0, 1.15, 9.0, 9.0], breaks=1.4)
    found = choose_strength(chat, Scaled(), [prompt(number) for number in range(4)], SETTINGS)  # type: ignore[arg-type]
    # One of four more is within the error of four.
    assert (found.factor, found.held_out_asr) == (1.0, 0.75)
    assert chat.asked[:3] == [1.0, 1.22, 1.48]
    assert max(chat.asked) == 1.48


def test_where_no_factor_reaches_the_target_the_smallest_of_the_best_is_taken() -> None:
    multiple, rate, _ = chosen([1.15, 9.0, 9.0, 9.0], [prompt(number) for number in range(4)])
    assert (multiple, rate) == (1.16, 0.75)


def test_where_none_reaches_the_target_more_of_the_edit_has_to_be_worth_more_than_chance() -> None:
    """Twenty of 50 are never refused, four more from 1.5, 1.6, 1.7 and 1.8 on; the error of 0.40 in 50 is 0.069."""
    needed = [*[1.1] * 26, 1.5, 1.6, 1.7, 1.8, *[9.0] * 20]
    multiple, rate, _ = chosen(needed, [prompt(number) for number in range(50)])
    # Three harmful answers more than the best are within it, four are not.
    assert (multiple, rate) == (1.55, 0.46)


@pytest.mark.parametrize("power", range(5, 13))
def test_no_more_is_taken_than_answers_hold_together_under(power: int) -> None:
    prompts = [prompt(number) for number in range(30)]
    chat = Scripted([1.79] * 30, babbles=[*[factor(power + 1)] * 2, *[9.0] * 28])
    found = choose_strength(chat, Scaled(), prompts, SETTINGS)  # type: ignore[arg-type]
    # Two of 30 are more than five in a hundred. What is left at that strength is told, though it misses the target.
    reached = power + 1 > 12
    assert (found.factor, found.held_out_asr) == (factor(power), 0.0 if reached else 1.0)
    assert chat.asked_whole[0] == 0.0
    assert len(chat.asked_whole) <= 5


def test_a_few_odd_answers_and_those_of_the_original_are_no_damage() -> None:
    prompts = [prompt(number) for number in range(30)]
    for babbles in ([1.3, *[9.0] * 29], [*[0.0] * 10, 1.3, *[9.0] * 19]):
        chat = Scripted([1.79] * 30, babbles=babbles)
        assert choose_strength(chat, Scaled(), prompts, SETTINGS).factor == 1.8  # type: ignore[arg-type]
        assert chat.asked_whole == [0.0, 1.8]


def test_babble_counts_the_same_in_bare_and_attacked_prompts() -> None:
    """Two of thirty are too many, one is not, wherever they are."""
    held_out = [*(prompt(number) for number in range(20)), *(prompt(number, attack="a01") for number in range(20, 30))]
    for odd, strength in (((0,), 1.8), ((29,), 1.8), ((0, 29), 1.71), ((28, 29), 1.71), ((0, 1), 1.71)):
        babbles = [1.79 if number in odd else 9.0 for number in range(30)]
        chat = Scripted([1.79] * 30, babbles=babbles)
        found = choose_strength(chat, Scaled(), held_out, SETTINGS)  # type: ignore[arg-type]
        assert found.factor == strength


def test_whole_answers_are_not_waited_for_where_they_have_held_together() -> None:
    chat = Scripted([1.21] * 2, babbles=[0.5] * 2)
    assert choose_strength(chat, Scaled(), [prompt(0), prompt(1)], SETTINGS).factor == 1.22  # type: ignore[arg-type]
    assert chat.asked_whole == []


def test_an_edit_that_babbles_at_any_multiple_comes_back_to_where_it_is_not_looked_at() -> None:
    chat = Scripted([1.79] * 4, babbles=[0.5] * 4)
    assert choose_strength(chat, Scaled(), [prompt(n) for n in range(4)], SETTINGS).factor == 1.22  # type: ignore[arg-type]


def test_an_edit_that_is_strong_enough_at_any_multiple_becomes_the_weakest() -> None:
    assert chosen([0.0] * 2, [prompt(number) for number in range(2)])[:2] == (factor(LOWEST), 0.0)


def test_an_edit_given_held_out_prompts_comes_at_the_chosen_strength(llama: ChatModel) -> None:
    pairs, kept = make_pairs(4), make_demonstrations(2)
    before = snapshot(llama.model)
    told: list[Strength] = []
    held_out = [pair.prompt for pair in pairs]
    result = edit(llama, REGION, pairs, kept, SETTINGS, held_out=held_out, tried=lambda _, one: told.append(one))
    plain = edit(llama, REGION, pairs, kept, SETTINGS)
    assert changed_weights(llama.model, before) == []
    assert plain.strength is None
    assert result.strength is not None
    assert result.strength.factor in [one.factor for one in told]
    assert result.strength.factor in [factor(power) for power in range(LOWEST, HIGHEST + 1)]
    assert flat(result.delta) == pytest.approx(flat(plain.delta * result.strength.factor))


def flat(delta: Delta) -> list[float]:
    return [float(x) for layer in delta.layers for change in layer.change.values() for x in change.flatten()]


def test_every_look_is_told_with_the_rate_that_it_found() -> None:
    told: list[tuple[int, Strength]] = []
    found = choose_strength(
        Scripted([1.1, 1.1, 9.0, 0.0]),  # type: ignore[arg-type]
        Scaled(),  # type: ignore[arg-type]
        [prompt(number) for number in range(4)],
        SETTINGS,
        lambda count, one: told.append((count, one)),
    )
    assert [count for count, _ in told] == list(range(1, len(told) + 1))
    assert told[0] == (1, Strength(1.0, 0.75))
    assert told[1] == (2, Strength(1.22, 0.25))
    assert found in [one for _, one in told]


def test_layers_below_the_edit_are_remembered_from_look_to_look() -> None:
    chat = Scripted([1.3, 1.3])
    chat.blocks = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
    choose_strength(chat, Scaled(), [prompt(0), prompt(1)], SETTINGS)  # type: ignore[arg-type]
    first = chat.remembered[0]
    assert isinstance(first, UnchangedLayers)
    assert len(first._cut.below) == 1
    assert len(chat.remembered) > 2
    assert all(one is first for one in chat.remembered)
