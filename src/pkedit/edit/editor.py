"""Trains δ on a region until safe answers are likely and harmless ones unchanged. The model is never touched."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pkedit.edit.delta import GATE, WRITE, Delta
from pkedit.edit.detector import detectors
from pkedit.edit.examples import Example, Sampler, make_examples, to_avoid
from pkedit.edit.hooked import HookedDelta
from pkedit.edit.objective import hinge, unlikelihood
from pkedit.edit.strength import Strength, choose_strength
from pkedit.errors import NonFiniteLossError, RegionError, TooFewPairsError
from pkedit.locate.region import Region
from pkedit.models.batches import AnswerBatch, divergence, state_likelihoods
from pkedit.models.chat import ChatModel
from pkedit.models.chunks import in_chunks
from pkedit.models.frozen import FrozenPrompts
from pkedit.models.hooks import entering_block
from pkedit.models.memory import give_back_freed_memory
from pkedit.models.precision import arithmetic, gradient_scale
from pkedit.models.prefix import PrefixCache
from pkedit.models.read_prompts import ReadPrompts
from pkedit.prompts.types import ContrastPair, Demonstration, Prompt
from pkedit.settings import EditSettings

# What one step frees the next uses again, but no two draw the same sizes, and the gaps between them add up.
STEPS_KEPT = 2


@dataclass(frozen=True)
class StepLosses:
    """The terms of one step, in nats per weighted answer token, before their weights."""

    step: int
    safe: float
    unsafe: float
    harmless: float
    norm: float


@dataclass(frozen=True)
class EditResult:
    """The edit, the losses of every step, and whether the hinge was met on all pairs before the last step.

    `strength` is what δ was multiplied by at the end, where held-out prompts were given. `prompts_not_frozen` says why
    whole dialogues were run where frozen prompts were asked for.
    """

    delta: Delta
    history: tuple[StepLosses, ...]
    stopped_early: bool
    strength: Strength | None = None
    prompts_not_frozen: str | None = None


def edit(
    chat: ChatModel,
    region: Region,
    pairs: Sequence[ContrastPair],
    demonstrations: Sequence[Demonstration],
    settings: EditSettings | None = None,
    *,
    held_out: Sequence[Prompt] = (),
    read: ReadPrompts | None = None,
    progress: Callable[[StepLosses, int], None] | None = None,
    tried: Callable[[int, Strength], None] | None = None,
) -> EditResult:
    """Learns δ for `region` from contrast pairs and from harmless answers to keep (PKE, section 4).

    One pair, a batch and a sequence of edits all come here: for a sequence, call it with the earlier delta
    applied and add the results. The model leaves as it came; apply the returned delta to edit it.

    Args:
        chat: the model.
        region: the neurons to edit.
        pairs: prompts with the answer to give and the answer to avoid.
        demonstrations: prompts with the answer to keep.
        settings: how.
        held_out: harmful prompts that no step sees, for choosing the edit's strength; without any it stays as trained.
        read: prompts that were read before, by this model in the arithmetic of `settings`; they are not read again.
        progress: called after every step with its losses and the number of steps.
        tried: called with how many strengths have been tried, and the last one.

    Raises:
        TooFewPairsError: no pair, or no demonstration.
        RegionError: the region is empty.
        NonFiniteLossError: a loss became NaN or Inf.
    """
    settings = settings or EditSettings()
    if not pairs or not demonstrations:
        raise TooFewPairsError("an edit needs at least one contrast pair and one harmless answer to keep; give both")
    if not region.neurons:
        raise RegionError("the region has no neurons; locate one first")
    examples = make_examples(chat, pairs, demonstrations, settings)
    delta, history = _train(chat, region, examples, settings, read, progress)
    strength = None
    if held_out:
        give_back_freed_memory()
        strength = choose_strength(chat, delta, held_out, settings, tried)
        delta = delta * strength.factor
    refused = chat.cannot_reuse if settings.frozen_prompts else None
    return EditResult(delta, history, len(history) < settings.steps, strength, refused)


def _train(
    chat: ChatModel,
    region: Region,
    examples: Sequence[Example],
    settings: EditSettings,
    read: ReadPrompts | None,
    progress: Callable[[StepLosses, int], None] | None,
) -> tuple[Delta, tuple[StepLosses, ...]]:
    """δ after the last step, and the losses of every step."""
    hooked = HookedDelta(chat, region, settings.parts, relative=settings.relative_learning_rate)
    with chat.frozen(), arithmetic(chat, settings.precision, cast_once=True):
        frozen = settings.frozen_prompts and chat.cannot_reuse is None
        cache = (partial(FrozenPrompts, read=read) if frozen else PrefixCache)(
            chat,
            [example.dialogue for example in examples],
            hooked.lowest_layer if settings.reuse_prefix else 0,
            first_tokens=settings.first_tokens,
            first_weight=settings.first_weight,
            tokens_per_batch=settings.tokens_per_batch,
            keep_final=[index for index, example in enumerate(examples) if example.role == "harmless"],
        )
        if settings.gate_detector and GATE in settings.parts:
            cache.prepare(range(len(examples)))
            harmful = [example.role != "harmless" for example in examples]
            hooked.open_gates(detectors(chat, hooked.layers, cache, harmful), settings.gate_detector)
        history = train(chat, hooked, cache, examples, settings, progress)
    return hooked.freeze(), history


def train(
    chat: ChatModel,
    hooked: HookedDelta,
    cache: PrefixCache | FrozenPrompts,
    examples: Sequence[Example],
    settings: EditSettings,
    progress: Callable[[StepLosses, int], None] | None = None,
) -> tuple[StepLosses, ...]:
    """Moves the free numbers of `hooked`, from where they are; returns the losses of every step.

    Args:
        chat: the model, with frozen weights.
        hooked: what is trained.
        cache: the dialogues of the examples, in their order.
        examples: what is learnt from.
        settings: how.
        progress: called after every step with its losses and the number of steps.

    Raises:
        NonFiniteLossError: a loss became NaN or Inf.
    """
    sampler = Sampler(examples, settings)
    optimizer = _optimizer(hooked, settings)
    rates = [group["lr"] for group in optimizer.param_groups]
    history: list[StepLosses] = []
    for step in range(settings.steps):
        if settings.warm_up_and_decay:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * _schedule(step, settings.steps)
        optimizer.zero_grad()
        if step % STEPS_KEPT == 0:
            give_back_freed_memory()
        losses = _step(chat, hooked, cache, sampler, step, settings)
        optimizer.step()
        if settings.norm_limit is not None:
            hooked.limit(settings.norm_limit)
        history.append(losses)
        if progress is not None:
            progress(losses, settings.steps)
        if sampler.all_met():
            break
    return tuple(history)


def _optimizer(hooked: HookedDelta, settings: EditSettings) -> torch.optim.Adam:
    """Adam with a rate of its own for the read vectors."""
    write = [free for (*_, part), free in hooked.free.items() if part == WRITE]
    read = [free for (*_, part), free in hooked.free.items() if part != WRITE]
    groups = [(write, settings.learning_rate), (read, settings.learning_rate * settings.read_rate)]
    return torch.optim.Adam([{"params": own, "lr": rate} for own, rate in groups if own], betas=(0.9, 0.98))


def _schedule(step: int, steps: int) -> float:
    """Three steps of warm-up, then linear down to a tenth."""
    return min((step + 1) / 3, 1.0) * (1.0 - 0.9 * step / max(steps, 1))


def _step(
    chat: ChatModel,
    hooked: HookedDelta,
    cache: PrefixCache | FrozenPrompts,
    sampler: Sampler,
    step: int,
    settings: EditSettings,
) -> StepLosses:
    """One step's gradient, accumulated over batches of similar length."""
    chosen = sampler.draw()
    cache.prepare(chosen)
    pairs = max(sum(sampler.examples[index].role == "safe" for index in chosen), 1)
    weight = {
        "safe": settings.safe_weight / pairs,
        "unsafe": settings.unsafe_weight / max(sum(sampler.examples[index].role == "unsafe" for index in chosen), 1),
        "harmless": settings.harmless_weight
        / max(sum(sampler.examples[index].role == "harmless" for index in chosen), 1),
    }
    scale = gradient_scale(chat)
    totals = {"safe": 0.0, "unsafe": 0.0, "harmless": 0.0}
    for group in cache.groups(chosen):
        batch = cache.batch(group)
        with (
            hooked.active(dropout=settings.dropout, generator=sampler.generator),
            noisy(chat.blocks[hooked.lowest_layer], settings.activation_noise, sampler.generator),
        ):
            states = batch.at_answers(cache.final_states(group, batch))
            batch = batch.to(states.device)
            per_token, avoided = _per_token(chat, cache, sampler, group, batch, states, settings)
            per_dialogue = batch.per_dialogue(per_token)
            loss = settings.unsafe_weight * avoided / pairs
            totals["unsafe"] += float(loss.detach())
            for row, index in enumerate(group):
                role = sampler.examples[index].role
                value = per_dialogue[row]
                if role == "safe":
                    value = hinge(value, settings.threshold)
                if role == "harmless" and not settings.harmless_gradient:
                    value = value.detach()
                if not torch.isfinite(value):
                    raise NonFiniteLossError(step, role)
                sampler.report(index, float(value.detach()))
                totals[role] += float(value.detach()) * weight[role]
                loss = loss + weight[role] * value
            # Harmless answers alone have no gradient where theirs is switched off.
            if loss.requires_grad:
                (loss * scale).backward()  # type: ignore[no-untyped-call]
    for free in hooked.free.values():
        if free.grad is not None:
            free.grad /= scale
    norm = hooked.norm_penalty()
    (settings.norm_weight * norm).backward()  # type: ignore[no-untyped-call]
    return StepLosses(
        step=step,
        safe=totals["safe"] / (settings.safe_weight or 1.0),
        unsafe=totals["unsafe"] / (settings.unsafe_weight or 1.0),
        harmless=totals["harmless"] / (settings.harmless_weight or 1.0),
        norm=float(norm.detach()),
    )


@contextmanager
def noisy(block: nn.Module, amount: float, generator: torch.Generator) -> Generator[None]:
    """Normal noise on the states that enter a decoder layer: `amount` times each token's root mean square."""
    if not amount:
        yield
        return

    def shaken(states: Tensor) -> Tensor:
        size = states.float().square().mean(-1, keepdim=True).sqrt()
        noise = torch.randn(states.shape, generator=generator).to(states.device)
        return states + (amount * size * noise).to(states.dtype)

    with entering_block(block, shaken):
        yield


def _per_token(
    chat: ChatModel,
    cache: PrefixCache | FrozenPrompts,
    sampler: Sampler,
    group: Sequence[int],
    batch: AnswerBatch,
    states: Tensor,
    settings: EditSettings,
) -> tuple[Tensor, Tensor]:
    """The loss of each answer token by the role of its dialogue, [answer tokens].

    With it, the summed unlikelihood of the unsafe first tokens that are predicted where the safe answers begin.
    `states`: final states at the answer tokens, [answer tokens, hidden].
    """
    roles = [sampler.examples[index].role for index in group]
    kept = torch.tensor([role == "harmless" for role in roles], device=states.device)[batch.row]
    values = torch.zeros(len(kept), device=states.device)
    avoided = states.new_zeros(())
    if not kept.all():
        starts, tokens = to_avoid([sampler.examples[index] for index in group], batch)
        targets = torch.cat([batch.target[~kept], tokens])
        likelihood = state_likelihoods(chat, torch.cat([states[~kept], states[starts]]), targets)
        likelihood, likelihood_avoided = likelihood.tensor_split([len(likelihood) - len(tokens)])
        unsafe = torch.tensor([role == "unsafe" for role in roles], device=states.device)[batch.row][~kept]
        missed = torch.where(unsafe, unlikelihood(likelihood, settings.unsafe_bound), -likelihood)
        values = values.masked_scatter(~kept, missed)
        avoided = unlikelihood(likelihood_avoided, settings.unsafe_bound).sum()
    if kept.any():
        original = torch.cat(
            [cache.original(index) for index, role in zip(group, roles, strict=True) if role == "harmless"]
        )
        moved = in_chunks(states[kept], lambda part, at: divergence(chat.head(original[at]), chat.head(part)))
        values = values.masked_scatter(kept, moved)
    return values, avoided
