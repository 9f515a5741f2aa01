"""What each stage of a run costs a model: the work, and the memory beside the weights. A stage is a few lines here.

What a stage does is written down from its code and has to follow it. `EFFICIENCY` and the factors of memory were fitted
to one recorded run of the embedded model, which tests/run/test_stage_costs.py holds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pkedit.edit.baselines import FIXED_LAYER_SHARE, REFUSAL_SUFFIX, dinm_settings
from pkedit.models import budgets
from pkedit.models.chunks import TOKENS as LOGIT_TOKENS
from pkedit.models.costs import Formats, Work, generating, key_bytes, passing
from pkedit.models.generation import READ_TOKENS
from pkedit.models.shape import ModelShape
from pkedit.run.asked import CHARACTERS_PER_TOKEN, SHARED_TOKENS, AskedPrompts, mean
from pkedit.settings import WHOLE, EditSettings, RunSettings

# Which share of the measured rates each kind of stage reached on two cores with the embedded model. Longer rows of
# larger models reach more.
EFFICIENCY = {"sample": 0.5, "locate": 0.45, "causal": 0.6, "edit": 0.55, "measure": 0.55, "capability": 0.65}

# Different openings of refusals, each read after so many prompts.
REFUSAL_OPENINGS, REFUSAL_PROMPTS, OPENING_TOKENS = 18, 4, 5
# Tokens of an answer in the causal check.
CAUSAL_TOKENS = 8
# Multiples of an edit that are tried on prompts held out from it.
STRENGTHS_TRIED = 7
# DINM finds its layer by itself; on average it is one in the middle.
DINM_LAYER_SHARE = 0.5
# Of the task `everyday`: its items, tokens of one with all its choices, and importing lm-evaluation-harness.
EVERYDAY_ITEMS, EVERYDAY_TOKENS, EVERYDAY_BATCH, HARNESS_SECONDS = 228, 38, 16, 1.0
# A tracing pass keeps the states of a layer in float32 so often, and the activations of its MLP once more.
STATES_KEPT = 6


@dataclass(frozen=True)
class StageCost:
    """A stage by its name in the record. `work` in the arithmetic of the edit (mixed, where that is faster), `plain`
    in the weights' own. Beside the weights it takes `memory`, bytes of states, keys and logits that come and go, and
    `copies`, bytes of weights held in another format. `seconds`: what depends on neither model nor machine."""

    name: str
    work: Work
    plain: Work
    memory: float
    copies: float = 0.0
    seconds: float = 0.0

    @property
    def efficiency(self) -> float:
        """The share of the measured rates that this kind of stage reaches."""
        return EFFICIENCY[self.name.split()[0]]


def stage_costs(
    shape: ModelShape, settings: RunSettings, asked: AskedPrompts, *, weight: float, mixed: float, kind: str = "cpu"
) -> list[StageCost]:
    """The stages of a run behind loading, in their order.

    Args:
        shape: of the model.
        settings: of the run.
        asked: its prompts.
        weight: bytes of a weight.
        mixed: bytes of a number in the arithmetic of locating and editing.
        kind: of the device, `cpu` or `cuda`.
    """
    counter = _Counter(shape, settings, asked, weight, mixed, kind)
    arms = [arm for arm in settings.arms if arm != "vanilla"]
    stages = [counter.sample()]
    if {"pke", "random"} & set(arms):
        stages += [counter.locate(), counter.causal()]
    stages += [counter.edit(arm) for arm in arms if arm != "suffix"]
    stages += [counter.measure(arm) for arm in ("vanilla", *arms)]
    if "everyday" in settings.evaluate.capability:
        stages += [counter.capability(arm) for arm in ("vanilla", *arms) if arm != "suffix"]
    return stages


class _Counter:
    """One method for each stage."""

    def __init__(
        self, shape: ModelShape, settings: RunSettings, asked: AskedPrompts, weight: float, mixed: float, kind: str
    ) -> None:
        self._kind = kind
        self._shape = shape
        self._settings = settings
        self._asked = asked
        self._plain = Formats(weight, weight)
        self._casting = Formats(weight, mixed)
        self._cast = Formats(weight, mixed, cast_once=True)
        # Where linear layers hold their weights in the narrower format, these stand beside the stored ones.
        copied = shape.layer_weights + shape.head_weights
        self._copies = copied * mixed if mixed < weight else 0.0

    def sample(self) -> StageCost:
        """Answers to all prompts of the edit, and the likelihood of each way to refuse."""
        settings, asked = self._settings, self._asked
        traced = settings.locate.demonstrations
        long = [*asked.harmful[: settings.locate.pairs], *asked.safe[:traced]]
        short_tokens = min(settings.edit.harmless_tokens, settings.sampled_tokens)
        work = self._answers(long, settings.sampled_tokens, self._casting)
        work += self._answers(asked.safe[traced:], short_tokens, self._casting)
        length = SHARED_TOKENS + mean(asked.harmful)
        openings = REFUSAL_OPENINGS * OPENING_TOKENS
        refusals = passing(
            self._shape,
            self._plain,
            tokens=REFUSAL_PROMPTS * (length + openings),
            context=length / 2,
            passes=2 * REFUSAL_PROMPTS,
            logits=REFUSAL_PROMPTS * openings,
        )
        memory = max(
            self._answering_memory(long, settings.sampled_tokens, self._casting),
            self._answering_memory(asked.safe[traced:], short_tokens, self._casting),
        )
        return StageCost("sample", work, refusals, memory)

    def locate(self) -> StageCost:
        """One pass there and back over pairs, both answers of each, and harmless answers, whole."""
        options, shape = self._settings.locate, self._shape
        pairs = [length for length in self._asked.harmful[: options.pairs] for _ in range(2)]
        lengths = [
            SHARED_TOKENS + own + options.tokens for own in (*pairs, *self._asked.safe[: options.demonstrations])
        ]
        tokens = sum(lengths)
        together = budgets.traced(options.tokens_per_batch, self._kind)
        passes = math.ceil(tokens / together)
        work = passing(
            shape,
            self._cast,
            tokens=tokens,
            context=tokens / len(lengths) / 2,
            passes=passes,
            logits=len(lengths) * options.tokens,
            backward=True,
        )
        # What the trace writes down of each token: activations, states and their gradients, in float32.
        kept = shape.layers * (2 * shape.widths + STATES_KEPT * shape.hidden) * 4
        work += Work(moved=2 * tokens * kept)
        if options.probe_steps > 1:
            share = len(pairs) / len(lengths)
            # The gradient of weights is the same work once more.
            work += work * (1.5 * options.probe_steps * share)
        memory = self._traced(max(together, *lengths), shape.layers)
        memory += 4 * shape.layers * shape.widths * len(lengths)
        copies = self._copies
        if options.probe_steps > 1:
            copies += 2 * shape.layer_weights * self._plain.weight
        return StageCost("locate", work, Work(), memory, copies)

    def causal(self) -> StageCost:
        """The upper layers once for each region and for none, over a few dialogues."""
        options, shape = self._settings.locate, self._shape
        count = 3 * options.causal_pairs
        length = mean(self._asked.harmful) + CAUSAL_TOKENS
        tokens = count * length + SHARED_TOKENS
        groups = math.ceil(count * (length + SHARED_TOKENS) / options.tokens_per_batch)
        work = passing(
            shape,
            self._cast,
            tokens=tokens,
            context=SHARED_TOKENS + length / 2,
            passes=2 * groups,
            layers=self._upper(options.first_layer),
            logits=count * CAUSAL_TOKENS,
        )
        memory = tokens * shape.layers * shape.hidden * 4 + self._logits(LOGIT_TOKENS)
        return StageCost("causal", work * (options.random_regions + 2), Work(), memory, self._copies)

    def edit(self, arm: str) -> StageCost:
        """All prompts read, then steps through the upper layers there and back, then the choice of a strength."""
        settings, asked, shape = self._settings.edit, self._asked, self._shape
        share = self._settings.locate.first_layer
        if arm in WHOLE:
            settings = dinm_settings(settings, as_released=arm == "dinm" and self._settings.dinm_as_released)
            share = DINM_LAYER_SHARE if arm == "dinm" else FIXED_LAYER_SHARE
        if not settings.reuse_prefix:
            share = 0.0
        layers = self._upper(share)
        pairs, kept = len(asked.harmful), len(asked.safe)
        answers = (settings.safe_tokens, settings.harmless_tokens)
        drawn = (min(settings.pairs_per_step, pairs), min(settings.demonstrations_per_step, kept))
        seen = [min(count, settings.steps * each) for count, each in zip((pairs, kept), drawn, strict=True)]
        if settings.gate_detector:
            seen = [pairs, kept]
        own = (mean(asked.harmful), mean(asked.safe))
        read = sum(count * (prompt + answer) for count, prompt, answer in zip(seen, own, answers, strict=True))
        context = SHARED_TOKENS + sum(own) / 2
        together = settings.tokens_per_batch
        passes = math.ceil(read / budgets.read(together, self._kind))
        work = passing(shape, self._cast, tokens=read, context=context, passes=passes)
        if settings.gate_detector:
            again = math.ceil(read / together) * together / budgets.frozen(together, self._kind)
            work += passing(shape, self._cast, tokens=pairs + kept, context=context, passes=again, layers=layers)
        step, activations = self._step(settings, drawn, own, layers)
        work += step * settings.steps
        memory = self._logits(LOGIT_TOKENS) + activations
        if settings.frozen_prompts:
            memory += (seen[0] * own[0] + seen[1] * own[1]) * key_bytes(
                shape, self._cast.state, layers
            ) + read * shape.hidden * 4
        else:
            memory += read * shape.hidden * 4
        if self._settings.chooses_strength(arm):
            for prompts in (asked.held_out_bare, asked.held_out_attacked):
                # What lies below the edit reads each prompt only for the first strength.
                upper = (shape.layers + (STRENGTHS_TRIED - 1) * layers) / STRENGTHS_TRIED
                tried = self._answers(prompts, settings.strength_tokens, self._casting, together=True, reading=upper)
                work += tried * STRENGTHS_TRIED
        if arm == "dinm":
            located = 2 * self._settings.locate.pairs
            length = SHARED_TOKENS + own[0] + answers[0]
            work += passing(shape, self._plain, tokens=located * length, context=length / 2, passes=located)
        return StageCost(f"edit {arm}", work, Work(), memory, self._copies)

    def measure(self, arm: str) -> StageCost:
        """Answers to the whole suite, and harmless answers read for the drift, all in the weights' own format.

        Layers below all edits have read the same for the model as it is.
        """
        options, asked, shape = self._settings.evaluate, self._asked, self._shape
        reading = None if arm in ("vanilla", "suffix") else self._upper(self._settings.locate.first_layer)
        more = len(REFUSAL_SUFFIX) / CHARACTERS_PER_TOKEN if arm == "suffix" else 0.0
        suite = [own + more for own in asked.suite]
        work = self._answers(suite, options.max_new_tokens, self._plain, reading=reading)
        if arm != "suffix":
            length = SHARED_TOKENS + mean(asked.harmless) + options.max_new_tokens
            count = len(asked.harmless)
            work += passing(
                shape,
                self._plain,
                tokens=count * length,
                context=length / 2,
                passes=math.ceil(count * length / READ_TOKENS),
                layers=reading,
                logits=count * options.max_new_tokens * (1 if arm == "vanilla" else 2),
            )
        memory = self._answering_memory(suite, options.max_new_tokens, self._plain)
        return StageCost(f"measure {arm}", Work(), work, memory)

    def capability(self, arm: str) -> StageCost:
        """The task `everyday`; of tasks from elsewhere nothing is known before they are loaded."""
        items = min(self._settings.evaluate.capability_limit or EVERYDAY_ITEMS, EVERYDAY_ITEMS)
        tokens = items * EVERYDAY_TOKENS
        work = passing(
            self._shape,
            self._cast,
            tokens=tokens,
            context=SHARED_TOKENS + EVERYDAY_TOKENS / 2,
            passes=math.ceil(items / EVERYDAY_BATCH),
            logits=tokens / 2,
        )
        memory = self._logits(EVERYDAY_BATCH * EVERYDAY_TOKENS)
        return StageCost(f"capability {arm}", work, Work(), memory, self._copies, seconds=HARNESS_SECONDS)

    def _step(
        self, settings: EditSettings, drawn: tuple[int, int], own: tuple[float, float], layers: float
    ) -> tuple[Work, float]:
        """The work of one training step, and the memory that one of its batches takes."""
        answers = (settings.safe_tokens, settings.harmless_tokens)
        answered = drawn[0] * answers[0] + drawn[1] * answers[1]
        whole = sum(
            count * (SHARED_TOKENS + prompt + answer) for count, prompt, answer in zip(drawn, own, answers, strict=True)
        )
        budget = settings.tokens_per_batch
        if settings.frozen_prompts:
            budget = budgets.frozen(budget, self._kind)
        # Each kind of answer has batches of its own, none of them quite full.
        groups = math.ceil(whole / budget) + 1
        if settings.frozen_prompts:
            tokens, most = float(answered), budget * max(answers) / (SHARED_TOKENS + min(own) + max(answers))
        else:
            tokens, most = whole - SHARED_TOKENS * (sum(drawn) - groups), float(budget)
        work = passing(
            self._shape,
            self._cast,
            tokens=tokens,
            context=SHARED_TOKENS + sum(own) / 2,
            passes=groups,
            layers=layers,
            # Once more without gradient for the divergence from the original.
            logits=answered + drawn[1] * answers[1] / 2,
            backward=True,
        )
        keys = 2 * budget * key_bytes(self._shape, self._cast.state, layers)
        return work, self._traced(min(most, tokens), layers) + keys

    def _answers(
        self,
        prompts: Sequence[float],
        tokens: int,
        formats: Formats,
        *,
        together: bool = False,
        reading: float | None = None,
    ) -> Work:
        """Prompts read by all layers or by `reading` of them, and answers written in batches of the settings' size, or
        all at once."""
        shape = self._shape
        if not prompts:
            return Work()
        context = SHARED_TOKENS + mean(prompts)
        batches = 1 if together else math.ceil(len(prompts) / self._settings.evaluate.batch_size)
        work = passing(
            shape,
            formats,
            tokens=sum(prompts) + SHARED_TOKENS,
            context=context / 2,
            passes=1 + math.ceil(sum(prompts) / READ_TOKENS),
            layers=reading,
        )
        rows = len(prompts) / batches
        return work + generating(shape, formats, rows=rows, steps=tokens, context=context + tokens / 2) * batches

    def _answering_memory(self, prompts: Sequence[float], tokens: int, formats: Formats) -> float:
        """The longest prompts are answered first: their keys side by side, and one batch's logits."""
        shape = self._shape
        longest = sorted(prompts, reverse=True)[: self._settings.evaluate.batch_size]
        if not longest:
            return 0.0
        keys = len(longest) * (SHARED_TOKENS + longest[0] + tokens) * key_bytes(shape, formats.state)
        reading = READ_TOKENS * (shape.widths + STATES_KEPT * shape.hidden) * 4
        # The head is the largest matrix, cast in every step where formats differ.
        cast = shape.head_weights * formats.state if formats.state < formats.weight else 0.0
        return keys + reading + cast + self._logits(len(longest))

    def _traced(self, tokens: float, layers: float) -> float:
        """What a pass with gradient keeps of its tokens until the way back."""
        shape = self._shape
        per_layer = shape.widths * (self._cast.state + 4 / 3) + STATES_KEPT * shape.hidden * 4
        return tokens * layers * per_layer

    def _logits(self, tokens: float) -> float:
        return 3 * tokens * self._shape.vocabulary * 4

    def _upper(self, share: float) -> float:
        """Layers from one at this share of the depth on."""
        return self._shape.layers - round(share * (self._shape.layers - 1))
