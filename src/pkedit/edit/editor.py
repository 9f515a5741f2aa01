"""Trains δ on a region until the safe answers are likely and the harmless ones unchanged. The model is never touched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pkedit.edit.delta import Delta
from pkedit.edit.hooked import HookedDelta
from pkedit.edit.objective import divergence, hinge, unlikelihood
from pkedit.edit.tokens import Example, PrefixCache, arithmetic
from pkedit.errors import NonFiniteLossError, RegionError, TooFewPairsError
from pkedit.locate.region import Region
from pkedit.models.batches import AnswerBatch, by_length, dialogue, log_likelihoods
from pkedit.models.chat import ChatModel
from pkedit.prompts.types import ContrastPair, Demonstration
from pkedit.settings import EditSettings


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
    """The edit, the losses of every step, and whether the hinge was met on all pairs before the last step."""

    delta: Delta
    history: tuple[StepLosses, ...]
    stopped_early: bool


def edit(
    chat: ChatModel,
    region: Region,
    pairs: Sequence[ContrastPair],
    demonstrations: Sequence[Demonstration],
    settings: EditSettings | None = None,
    *,
    progress: Callable[[StepLosses, int], None] | None = None,
) -> EditResult:
    """Learns δ for `region` from contrast pairs and from harmless answers to keep (PKE, section 4).

    One pair, a batch and a sequence of edits all come here: for a sequence, call it with the earlier delta
    applied and add the results. The model leaves as it came; apply the returned delta to edit it.

    Raises:
        TooFewPairsError: no pair, or no demonstration.
        RegionError: the region is empty.
        NonFiniteLossError: a loss became NaN or Inf.
    """
    settings = settings or EditSettings()
    if not pairs or not demonstrations:
        raise TooFewPairsError("an edit needs at least one contrast pair and one harmless answer to keep")
    if not region.neurons:
        raise RegionError("the region has no neurons; locate one first")
    examples = _examples(chat, pairs, demonstrations, settings)
    with chat.frozen(), arithmetic(chat, settings.precision):
        hooked = HookedDelta(chat, region, settings.parts)
        cache = PrefixCache(
            chat,
            examples,
            hooked.lowest_layer,
            first_tokens=settings.first_tokens,
            first_weight=settings.first_weight,
            tokens_per_batch=settings.tokens_per_batch,
        )
        sampler = _Sampler(examples, settings)
        optimizer = torch.optim.Adam(hooked.free.values(), lr=settings.learning_rate, betas=(0.9, 0.98))
        history: list[StepLosses] = []
        for step in range(settings.steps):
            optimizer.param_groups[0]["lr"] = settings.learning_rate * _schedule(step, settings.steps)
            optimizer.zero_grad()
            losses = _step(chat, hooked, cache, sampler, step, settings)
            optimizer.step()
            hooked.limit(settings.norm_limit)
            history.append(losses)
            if progress is not None:
                progress(losses, settings.steps)
            if sampler.all_met():
                break
        return EditResult(hooked.freeze(), tuple(history), len(history) < settings.steps)


def _schedule(step: int, steps: int) -> float:
    """Three steps of warm-up, then linear down to a tenth."""
    return min((step + 1) / 3, 1.0) * (1.0 - 0.9 * step / max(steps, 1))


def _examples(
    chat: ChatModel,
    pairs: Sequence[ContrastPair],
    demonstrations: Sequence[Demonstration],
    settings: EditSettings,
) -> list[Example]:
    examples = []
    for source, pair in enumerate(pairs):
        text = pair.prompt.text
        examples.append(Example("safe", source, dialogue(chat, text, pair.safe, limit=settings.safe_tokens)))
        if settings.unsafe_weight:
            unsafe = dialogue(chat, text, pair.unsafe, limit=settings.unsafe_tokens, ended=False)
            examples.append(Example("unsafe", source, unsafe))
    for source, kept in enumerate(demonstrations):
        harmless = dialogue(chat, kept.prompt.text, kept.answer, limit=settings.harmless_tokens)
        examples.append(Example("harmless", source, harmless))
    return examples


def _step(
    chat: ChatModel,
    hooked: HookedDelta,
    cache: PrefixCache,
    sampler: "_Sampler",
    step: int,
    settings: EditSettings,
) -> StepLosses:
    """One step's gradient, accumulated over batches of similar length."""
    chosen = sampler.draw()
    weight = {
        "safe": 1.0 / max(sum(sampler.examples[index].role == "safe" for index in chosen), 1),
        "unsafe": settings.unsafe_weight / max(sum(sampler.examples[index].role == "unsafe" for index in chosen), 1),
        "harmless": settings.harmless_weight
        / max(sum(sampler.examples[index].role == "harmless" for index in chosen), 1),
    }
    totals = {"safe": 0.0, "unsafe": 0.0, "harmless": 0.0}
    lengths = [len(sampler.examples[index].dialogue) for index in chosen]
    for places in by_length(lengths, tokens=settings.tokens_per_batch):
        group = [chosen[place] for place in places]
        batch = cache.batch(group)
        with hooked.active():
            logits = chat.head(batch.at_answers(cache.final_states(group, batch)))
            per_dialogue = batch.per_dialogue(_per_token(chat, cache, sampler, group, batch, logits, settings))
            loss = torch.zeros((), device=logits.device)
            for row, index in enumerate(group):
                role = sampler.examples[index].role
                value = per_dialogue[row]
                if role == "safe":
                    value = hinge(value, settings.threshold)
                if not torch.isfinite(value):
                    raise NonFiniteLossError(step, role)
                sampler.report(index, float(value.detach()))
                totals[role] += float(value.detach()) * weight[role]
                loss = loss + weight[role] * value
            loss.backward()  # type: ignore[no-untyped-call]
    norm = hooked.norm_penalty()
    (settings.norm_weight * norm).backward()  # type: ignore[no-untyped-call]
    return StepLosses(
        step=step,
        safe=totals["safe"],
        unsafe=totals["unsafe"] / (settings.unsafe_weight or 1.0),
        harmless=totals["harmless"] / (settings.harmless_weight or 1.0),
        norm=float(norm.detach()),
    )


def _per_token(
    chat: ChatModel,
    cache: PrefixCache,
    sampler: "_Sampler",
    group: Sequence[int],
    batch: AnswerBatch,
    logits: Tensor,
    settings: EditSettings,
) -> Tensor:
    """The loss of each answer token by the role of its dialogue: [answer tokens]."""
    roles = [sampler.examples[index].role for index in group]
    likelihood = log_likelihoods(logits, batch.target)
    values = -likelihood
    unsafe = torch.tensor([role == "unsafe" for role in roles], device=logits.device)[batch.row]
    if unsafe.any():
        values = torch.where(unsafe, unlikelihood(likelihood, settings.unsafe_bound), values)
    kept = torch.tensor([role == "harmless" for role in roles], device=logits.device)[batch.row]
    if kept.any():
        with torch.no_grad():
            states = [cache.original(index) for index, role in zip(group, roles, strict=True) if role == "harmless"]
            reference = chat.head(torch.cat(states))
        values = values.clone()
        values[kept] = divergence(reference, logits[kept])
    return values


class _Sampler:
    """Draws the examples of a step: those with a high loss when last seen more often, unseen ones first."""

    def __init__(self, examples: Sequence[Example], settings: EditSettings) -> None:
        self.examples = examples
        self._settings = settings
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._loss: dict[int, float] = {}
        self._pairs = sorted({example.source for example in examples if example.role != "harmless"})
        self._of_pair = {
            source: [i for i, e in enumerate(examples) if e.source == source and e.role != "harmless"]
            for source in self._pairs
        }
        self._safe = {e.source: i for i, e in enumerate(examples) if e.role == "safe"}
        self._harmless = [i for i, e in enumerate(examples) if e.role == "harmless"]

    def draw(self) -> list[int]:
        """Indices of one step's examples."""
        pairs = self._pick([self._safe[source] for source in self._pairs], self._settings.pairs_per_step)
        chosen = [i for index in pairs for i in self._of_pair[self.examples[index].source]]
        return chosen + self._pick(self._harmless, self._settings.demonstrations_per_step)

    def report(self, index: int, loss: float) -> None:
        """Remembers the loss of an example."""
        self._loss[index] = loss

    def all_met(self) -> bool:
        """Whether every pair's hinge was zero when last seen."""
        return all(self._loss.get(index, 1.0) == 0.0 for index in self._safe.values())

    def _pick(self, candidates: Sequence[int], count: int) -> list[int]:
        if count >= len(candidates):
            return list(candidates)
        seen = [self._loss[index] for index in candidates if index in self._loss]
        mean = sum(seen) / len(seen) if seen else 1.0
        # A share of the mean for everyone, so that what was learnt is looked at again now and then.
        unseen = 100.0 * (mean + 1e-3)
        weights = torch.tensor([self._loss.get(i, unseen) + 0.5 * mean + 1e-6 for i in candidates])
        drawn = torch.multinomial(weights, count, generator=self._generator)
        return [candidates[place] for place in drawn.tolist()]
