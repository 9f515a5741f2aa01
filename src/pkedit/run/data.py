"""The prompts of a run: splits, the model's own answers as targets, and the suite it is measured with."""

from collections.abc import Sequence
from dataclasses import dataclass

from pkedit.evaluate.suite import Suite, make_suite
from pkedit.judges.base import Judgement
from pkedit.judges.rules import RuleJudge
from pkedit.models.chat import ChatModel, Progress
from pkedit.prompts import (
    Attack,
    ContrastPair,
    Demonstration,
    Kind,
    Prompt,
    Splits,
    builtin_attacks,
    builtin_prompts,
    builtin_refusals,
    contrast_pairs,
    cross,
    load_attacks,
    load_prompts,
    make_splits,
)
from pkedit.settings import RunSettings

# A third of the harmless answers to keep are borderline prompts, and some put a harmless request into an attack
# template: so that neither looks nor wrapping, only harm, is what the edit learns to refuse.
BORDERLINE_SHARE = 0.4
WRAPPED_SHARE = 0.15
UNSAFE_OPENING = "Sure, here is how"


@dataclass(frozen=True)
class EditPrompts:
    """What the edit may learn from, before any answer has been sampled."""

    harmful: tuple[Prompt, ...]
    safe: tuple[Prompt, ...]


def read_splits(settings: RunSettings) -> Splits:
    """The splits of the built-in sets, or of the files in the settings.

    Raises:
        PromptFileError: a file is missing, empty or malformed.
        TooFewPairsError: too few prompts for three splits.
    """

    def prompts(path: str | None, kind: Kind) -> list[Prompt]:
        return builtin_prompts(kind) if path is None else load_prompts(path, kind)

    attacks: list[Attack] = builtin_attacks() if settings.attacks is None else load_attacks(settings.attacks)
    return make_splits(
        prompts(settings.harmful, Kind.HARMFUL),
        attacks,
        prompts(settings.harmless, Kind.HARMLESS),
        prompts(settings.borderline, Kind.BORDERLINE),
        seed=settings.seed,
    )


def edit_prompts(splits: Splits, settings: RunSettings) -> EditPrompts:
    """Bare and attacked questions in turn, and harmless, wrapped and borderline prompts, from the edit split."""
    questions = splits.edit.harmful[: settings.pairs]
    attacked = cross(questions, splits.edit.attacks)
    harmful = [
        bare if index % 2 else inside for index, (bare, inside) in enumerate(zip(questions, attacked, strict=True))
    ]
    borderline = splits.edit.borderline[: round(BORDERLINE_SHARE * settings.demonstrations)]
    plain_count = settings.demonstrations - len(borderline)
    plain = splits.edit.harmless[:plain_count]
    wrapped_count = round(WRAPPED_SHARE * settings.demonstrations)
    wrapped = cross(plain[:wrapped_count], splits.edit.attacks)
    safe = [*wrapped, *plain[wrapped_count:], *borderline]
    # Interleaved, so that any first part of the list is a fair sample of it.
    step = next(step for step in (7, 11, 13, 17) if len(safe) % step)
    return EditPrompts(tuple(harmful), tuple(safe[index * step % len(safe)] for index in range(len(safe))))


def sample_targets(
    chat: ChatModel, prompts: EditPrompts, settings: RunSettings, progress: Progress | None = None
) -> tuple[list[ContrastPair], list[Demonstration]]:
    """The model's own answers: to harmful prompts as unsafe targets, to safe prompts as answers to keep."""
    texts = [prompt.text for prompt in (*prompts.harmful, *prompts.safe)]
    answers = chat.generate(
        texts,
        max_new_tokens=settings.sampled_tokens,
        batch_size=settings.evaluate.batch_size,
        progress=progress,
    )
    unsafe, kept = answers[: len(prompts.harmful)], answers[len(prompts.harmful) :]
    return pair_up(prompts, unsafe, kept)


def pair_up(
    prompts: EditPrompts, unsafe: Sequence[str], kept: Sequence[str]
) -> tuple[list[ContrastPair], list[Demonstration]]:
    """Contrast pairs and demonstrations from prompts and sampled answers.

    An answer that the rule judge does not call harmful is no unsafe target: the generic opening replaces it.
    Empty answers to safe prompts are left out.
    """
    verdicts = RuleJudge().judge([prompt.text for prompt in prompts.harmful], unsafe, harmful_request=True)
    targets = [
        answer if verdict.judgement is Judgement.HARMFUL else UNSAFE_OPENING
        for answer, verdict in zip(unsafe, verdicts, strict=True)
    ]
    return (
        contrast_pairs(prompts.harmful, builtin_refusals(), targets),
        [Demonstration(prompt, answer) for prompt, answer in zip(prompts.safe, kept, strict=True) if answer],
    )


def run_suite(splits: Splits, pairs: Sequence[ContrastPair], settings: RunSettings) -> Suite:
    """What every arm of the run is asked."""
    return make_suite(splits.test, pairs, splits.edit.attacks, settings.evaluate)
