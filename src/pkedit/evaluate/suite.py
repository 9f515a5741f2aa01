"""Which prompts are asked: SafeEdit's five defence groups, bare unseen questions, and safe prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

from pkedit.prompts.splits import Split, cross
from pkedit.prompts.types import LONG, Attack, ContrastPair, Kind, Prompt
from pkedit.settings import EvaluateSettings


@dataclass(frozen=True)
class Suite:
    """Prompts by group. The first five are SafeEdit's (arXiv 2403.14472, section 5.1).

    `ds`: edited pairs as they were edited. `dg_only_q`: edited questions, bare. `dg_other_a`: edited questions in
    unseen attacks. `dg_other_q`: unseen questions in edited attacks. `dg_other_aq`: both unseen.
    `bare`: unseen questions without an attack. `harmless`, `long`, `borderline`: unseen safe prompts.
    """

    groups: dict[str, tuple[Prompt, ...]]

    @property
    def prompts(self) -> list[tuple[str, Prompt]]:
        """Every prompt with its group, group after group."""
        return [(group, prompt) for group, prompts in self.groups.items() for prompt in prompts]


def make_suite(
    test: Split, pairs: Sequence[ContrastPair], edited_attacks: Sequence[Attack], sizes: EvaluateSettings
) -> Suite:
    """The suite of a run: unseen prompts from the test split, seen ones from the pairs of the edit."""
    attacked = [pair.prompt for pair in pairs if pair.prompt.attack is not None and not pair.prompt.before]
    questions = [_bare(prompt) for prompt in attacked]
    # Rotated, so that each group puts its questions into other templates than the group beside it.
    rotated = [*test.attacks[1:], *test.attacks[:1]]
    groups = {
        "ds": attacked[: sizes.seen],
        "dg_only_q": questions[: sizes.seen],
        "dg_other_a": cross(questions[: sizes.cross], rotated),
        "dg_other_q": cross(test.harmful[: sizes.cross], edited_attacks),
        "dg_other_aq": cross(test.harmful[: sizes.unseen], test.attacks),
        "bare": list(test.harmful[: sizes.unseen]),
        Kind.HARMLESS.value: test.short[: sizes.harmless],
        LONG: test.long[: sizes.long],
        Kind.BORDERLINE.value: list(test.borderline[: sizes.borderline]),
    }
    return Suite({name: tuple(prompts) for name, prompts in groups.items() if prompts})


def _bare(prompt: Prompt) -> Prompt:
    return Prompt(
        id=prompt.id.split("+")[0],
        question=prompt.question,
        text=prompt.question,
        kind=prompt.kind,
        category=prompt.category,
        topic=prompt.topic,
        better=prompt.better,
    )
