"""Judges by name, as `--judges` and `--judge` give them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pkedit.errors import PkeditError
from pkedit.judges.base import Judge
from pkedit.models.remote_endpoint import endpoint_of

if TYPE_CHECKING:
    from pkedit.models.remote import RemoteModel

KNOWN = "rules, embedded, guard:MODEL or remote:MODEL"


@dataclass(frozen=True)
class JudgeOptions:
    """How models that judge are reached.

    `api_base`: the endpoint of remote judges; by default their provider's own. `concurrency`: requests under way at
    once. `temperature`: None for models that take none. `device`: where guard models go; by default the best one.
    """

    api_base: str | None = None
    concurrency: int = 8
    temperature: float | None = 0.0
    device: str | None = None


def make_judge(name: str, options: JudgeOptions | None = None) -> Judge:
    """The judge of this name: `rules`, `embedded`, `guard:MODEL` or `remote:MODEL`.

    Raises:
        PkeditError: no such judge, or its model cannot be had.
    """
    options = options or JudgeOptions()
    kind, _, model = name.partition(":")
    if name == "rules":
        from pkedit.judges.rules import RuleJudge

        return RuleJudge()
    if name == "embedded":
        from pkedit.judges.embedded import EmbeddedJudge

        return EmbeddedJudge()
    if kind == "guard":
        from pkedit.judges.guard import GuardJudge

        return GuardJudge.from_name(name, device=options.device)
    if kind == "remote" and model:
        from pkedit.judges.remote import RemoteJudge

        return RemoteJudge(remote_model(model, options))
    raise PkeditError(f"no judge is called {name!r}; choose from {KNOWN}")


def remote_model(model: str, options: JudgeOptions) -> "RemoteModel":
    """A remote model that is asked to judge, with the user's cache.

    Raises:
        RemoteModelError: its name and the options name no endpoint.
    """
    from pkedit.models.remote import RemoteModel
    from pkedit.models.remote_cache import default_cache_folder

    return RemoteModel(
        model,
        api_base=options.api_base,
        cache=default_cache_folder(),
        concurrency=options.concurrency,
        temperature=options.temperature,
    )


def make_judges(names: Sequence[str], options: JudgeOptions | None = None) -> list[Judge]:
    """Several judges, each once; the first one's verdicts count most.

    Raises:
        PkeditError: none is named, one is named twice, or one cannot be had.
    """
    if not names or len(set(names)) < len(names):
        raise PkeditError(f"judges {', '.join(names) or '(none)'}: name at least one, and each once")
    return [make_judge(name, options) for name in names]


def check_keys(names: Sequence[str], *, api_base: str | None = None) -> None:
    """Finds out whether the keys of the remote ones among these judges are in the environment, before they are asked.

    Raises:
        RemoteModelError: one is not, or the judge's name says no endpoint.
    """
    for kind, _, model in (name.partition(":") for name in names):
        if kind == "remote":
            endpoint_of(model, api_base).key()
