"""The prompts of a run: splits, the model's own answers as targets, and the suite it is measured with."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pkedit.edit.refusals import natural_refusals
from pkedit.errors import PromptFileError
from pkedit.evaluate.suite import Suite, make_suite
from pkedit.judges.base import Judgement
from pkedit.judges.rules import RuleJudge
from pkedit.models.chat import ChatModel, Progress
from pkedit.models.precision import arithmetic
from pkedit.models.read_prompts import ReadPrompts
from pkedit.prompts import (
    Attack,
    Columns,
    ContrastPair,
    Demonstration,
    Kind,
    Prompt,
    Splits,
    behind_passage,
    behind_turns,
    builtin_attacks,
    builtin_preambles,
    builtin_prompts,
    builtin_refusals,
    builtin_turns,
    contrast_pairs,
    cross,
    load_attacks_from,
    load_prompts_from,
    make_splits,
    passages,
)
from pkedit.prompts.types import LONG
from pkedit.settings import RunSettings

# Of the answers to keep, many are to borderline prompts, some put a harmless request into an attack template, and some
# are to long prompts: so that neither looks nor wrapping nor length, only harm, is what the edit learns to refuse.
BORDERLINE_SHARE = 0.66
WRAPPED_SHARE = 0.05
LONG_SHARE = 0.07
# Of the share of safe prompts: what an edit gets wrong behind a passage is to refuse, not to answer.
HARMFUL_PASSAGES = 1 / 3
UNSAFE_OPENING = "Sure, here is how"
# Refusals that share so many tokens are one decision to the model.
OPENING_TOKENS = 5


@dataclass(frozen=True)
class EditPrompts:
    """What the edit may learn from, before any answer has been sampled."""

    harmful: tuple[Prompt, ...]
    safe: tuple[Prompt, ...]


def read_splits(settings: RunSettings) -> Splits:
    """The splits of the built-in sets, or of the files and presets in the settings.

    Raises:
        PromptFileError: a file is missing, empty or malformed, or columns are given without one.
        TooFewPairsError: too few prompts for three splits.
    """

    columns = {name: Columns.parse(text) for name, text in settings.columns.items()}
    for name in columns:
        if getattr(settings, name) is None:
            raise PromptFileError(
                f"--columns {name}: there is no file of {name} whose columns these could be; give --{name}"
            )

    def prompts(source: str | None, kind: Kind) -> list[Prompt]:
        own = columns.get(kind.value)
        return builtin_prompts(kind) if source is None else load_prompts_from(source, kind, own)

    attacks: list[Attack] = builtin_attacks()
    if settings.attacks is not None:
        attacks = load_attacks_from(settings.attacks, columns.get("attacks"))
    return make_splits(
        prompts(settings.harmful, Kind.HARMFUL),
        attacks,
        prompts(settings.harmless, Kind.HARMLESS),
        prompts(settings.borderline, Kind.BORDERLINE),
        seed=settings.seed,
    )


def edit_prompts(splits: Splits, settings: RunSettings) -> EditPrompts:
    """Bare and attacked questions in turn, and harmless, wrapped, long and borderline prompts, from the edit split.

    The attacked questions are asked bare as well, so that only the attack differs. Some of each, but not those that are
    traced, come behind something else.
    """
    questions = splits.edit.harmful
    attacked_count = min(round(settings.pairs * settings.attacked_share), len(questions))
    bare = questions[: settings.pairs - attacked_count]
    harmful = _interleaved(bare, cross(questions[:attacked_count], splits.edit.attacks))
    borderline = splits.edit.borderline[: round(BORDERLINE_SHARE * settings.demonstrations)]
    wrapped_count = round(WRAPPED_SHARE * settings.demonstrations)
    long = splits.edit.long[: round(LONG_SHARE * settings.demonstrations)]
    plain = splits.edit.short[: settings.demonstrations - len(borderline) - wrapped_count - len(long)]
    wrapped = cross(plain[:wrapped_count], splits.edit.attacks)
    safe = _interleaved(wrapped, long, plain, borderline)
    return EditPrompts(
        _in_contexts(harmful, settings.locate.pairs, settings.behind_passage * HARMFUL_PASSAGES, splits, settings),
        _in_contexts(safe, settings.locate.demonstrations, settings.behind_passage, splits, settings),
    )


def asked_pairs(splits: Splits, settings: RunSettings) -> list[ContrastPair]:
    """The pairs that an edit would learn from, without answers, for what only asks their prompts."""
    harmful = edit_prompts(splits, settings).harmful
    return contrast_pairs(harmful, builtin_refusals(), [""] * len(harmful))


def held_out_prompts(splits: Splits) -> list[Prompt]:
    """The questions of the select split, all bare and every second one attacked too."""
    return [*splits.select.harmful, *cross(splits.select.harmful[::2], splits.select.attacks)]


def _interleaved(*kinds: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """All prompts, each kind spread evenly: any first part of the result has the same shares of them."""
    placed = [((place + 0.5) / len(kind), prompt) for kind in kinds for place, prompt in enumerate(kind)]
    return tuple(prompt for _, prompt in sorted(placed, key=lambda item: item[0]))


def _in_contexts(
    prompts: Sequence[Prompt], traced: int, behind: float, splits: Splits, settings: RunSettings
) -> tuple[Prompt, ...]:
    """The same prompts, but after the first `traced` some come behind earlier turns, and a share `behind` a passage."""
    draw = random.Random(settings.seed)
    turns, before = builtin_turns(), [*builtin_preambles(), *passages(splits.edit.long)]
    placed = list(prompts[:traced])
    for prompt in prompts[traced:]:
        drawn = draw.random()
        if drawn < settings.behind_turns:
            placed.append(behind_turns(prompt, turns, draw))
        elif drawn < settings.behind_turns + behind and prompt.category != LONG:
            placed.append(behind_passage(prompt, draw.choice(before)))
        else:
            placed.append(prompt)
    return tuple(placed)


def sample_targets(
    chat: ChatModel,
    prompts: EditPrompts,
    settings: RunSettings,
    progress: Progress | None = None,
    *,
    read: ReadPrompts | None = None,
) -> tuple[list[ContrastPair], list[Demonstration]]:
    """The model's own answers: to harmful prompts as unsafe targets, to safe prompts as answers to keep.

    An answer that the rule judge does not call harmful is no unsafe target: the generic opening replaces it.
    Empty answers to safe prompts are left out. `read` receives the prompts that were read for it.
    """
    traced = prompts.harmful[: settings.locate.pairs]
    also_traced = prompts.safe[: settings.locate.demonstrations]
    only_kept = prompts.safe[len(also_traced) :]
    total = len(traced) + len(prompts.safe)

    def answers(asked: Sequence[Prompt], tokens: int, before: int) -> list[str]:
        return chat.generate(
            [prompt.conversation for prompt in asked],
            max_new_tokens=tokens,
            batch_size=settings.evaluate.batch_size,
            read=read,
            progress=None if progress is None else lambda done, _: progress(before + done, total),
        )

    with arithmetic(chat, settings.edit.precision, cast_once=True):
        long = answers([*traced, *also_traced], settings.sampled_tokens, 0)
        # The edit keeps the beginnings of answers; only tracing reads on.
        short = answers(only_kept, min(settings.edit.harmless_tokens, settings.sampled_tokens), len(long))
    own, kept = long[: len(traced)], [*long[len(traced) :], *short]
    verdicts = RuleJudge().judge([prompt.text for prompt in traced], own, harmful_request=True)
    unsafe = [
        answer if verdict.judgement is Judgement.HARMFUL else UNSAFE_OPENING
        for answer, verdict in zip(own, verdicts, strict=True)
    ]
    # Only traced pairs need the model's own words; what the others make less likely is their first token.
    unsafe += [UNSAFE_OPENING] * (len(prompts.harmful) - len(traced))
    bare = [prompt for prompt in prompts.harmful if prompt.attack is None]
    refusals = natural_refusals(
        chat, builtin_refusals(), bare[:4] or prompts.harmful[:4], opening_tokens=OPENING_TOKENS
    )
    return (
        contrast_pairs(prompts.harmful, refusals, unsafe),
        [Demonstration(prompt, answer) for prompt, answer in zip(prompts.safe, kept, strict=True) if answer],
    )


def target_rows(pairs: Sequence[ContrastPair], kept: Sequence[Demonstration]) -> list[dict[str, str]]:
    """Pairs and demonstrations as rows of `targets.jsonl`."""
    rows = [{"role": "pair", "id": pair.prompt.id, "safe": pair.safe, "unsafe": pair.unsafe} for pair in pairs]
    return rows + [{"role": "keep", "id": one.prompt.id, "answer": one.answer} for one in kept]


def read_targets(
    rows: Sequence[dict[str, str]], prompts: EditPrompts
) -> tuple[list[ContrastPair], list[Demonstration]]:
    """What `target_rows` wrote, with the prompts put back.

    Raises:
        KeyError: a row names a prompt that is not among `prompts`, or lacks a field.
    """
    by_id = {prompt.id: prompt for prompt in (*prompts.harmful, *prompts.safe)}
    return (
        [ContrastPair(by_id[row["id"]], row["safe"], row["unsafe"]) for row in rows if row["role"] == "pair"],
        [Demonstration(by_id[row["id"]], row["answer"]) for row in rows if row["role"] == "keep"],
    )


def run_suite(splits: Splits, pairs: Sequence[ContrastPair], settings: RunSettings) -> Suite:
    """What every arm of the run is asked."""
    return make_suite(splits.test, pairs, splits.edit.attacks, settings.evaluate)
