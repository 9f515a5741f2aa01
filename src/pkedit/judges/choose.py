"""Judges by name, as `--judges` and `--judge` give them."""

from collections.abc import Sequence

from pkedit.errors import PkeditError
from pkedit.judges.base import Judge
from pkedit.models.remote_endpoint import endpoint_of

KNOWN = "rules, embedded, guard:MODEL or remote:MODEL"


def make_judge(name: str, *, api_base: str | None = None, device: str | None = None) -> Judge:
    """The judge of this name: `rules`, `embedded`, `guard:MODEL` or `remote:MODEL`.

    Args:
        name: which.
        api_base: the endpoint of a remote judge; its provider's own if absent.
        device: where a guard model goes; the best device if absent.

    Raises:
        PkeditError: no such judge, or its model cannot be had.
    """
    kind, _, model = name.partition(":")
    if name == "rules":
        from pkedit.judges.rules import RuleJudge

        return RuleJudge()
    if name == "embedded":
        from pkedit.judges.embedded import EmbeddedJudge

        return EmbeddedJudge()
    if kind == "guard":
        from pkedit.judges.guard import GuardJudge

        return GuardJudge.from_name(name, device=device)
    if kind == "remote" and model:
        from pkedit.judges.remote import RemoteJudge
        from pkedit.models.remote import RemoteModel
        from pkedit.models.remote_cache import default_cache_folder

        return RemoteJudge(RemoteModel(model, api_base=api_base, cache=default_cache_folder()))
    raise PkeditError(f"no judge is called {name!r}; choose from {KNOWN}")


def make_judges(names: Sequence[str], *, api_base: str | None = None, device: str | None = None) -> list[Judge]:
    """Several judges, each once; the first one's verdicts count most.

    Raises:
        PkeditError: none is named, one is named twice, or one cannot be had.
    """
    if not names or len(set(names)) < len(names):
        raise PkeditError(f"judges {', '.join(names) or '(none)'}: name at least one, and each once")
    return [make_judge(name, api_base=api_base, device=device) for name in names]


def check_keys(names: Sequence[str], *, api_base: str | None = None) -> None:
    """Finds out whether the keys of the remote ones among these judges are in the environment, before they are asked.

    Raises:
        RemoteModelError: one is not, or the judge's name says no endpoint.
    """
    for kind, _, model in (name.partition(":") for name in names):
        if kind == "remote":
            endpoint_of(model, api_base).key()
