"""What a search with remote judges may cost at most, estimated before anything is sent."""

from pathlib import Path

from pkedit.run.asked import CHARACTERS_PER_TOKEN, mean
from pkedit.run.data import read_splits
from pkedit.run.spending import Spending, judges_spending, run_spending
from pkedit.settings import RunSettings
from pkedit.tune.scoring import search_judges, select_suite


def search_spending(settings: RunSettings, chosen: Path, trials: int) -> list[Spending]:
    """The verdicts of so many trials and of the unedited model, and the run of the chosen settings.

    Args:
        settings: where the search starts.
        chosen: the folder of that run.
        trials: all of them; those that an earlier call has paid for count again, for their answers are in a cache.

    Raises:
        PkeditError: a file of prompts cannot be read, or a judge cannot be had.
    """
    if not any(name.startswith("remote:") for name in settings.evaluate.judges):
        return run_spending(settings, chosen)
    asked = select_suite(read_splits(settings).select, settings).prompts
    tokens = mean([len(prompt.text) / CHARACTERS_PER_TOKEN for _, prompt in asked])
    names = settings.evaluate.judges[: len(search_judges(settings))]
    answers = (trials + 1) * len(asked)
    limit = settings.evaluate.max_new_tokens
    own = judges_spending(names, settings.judge_api_base, answers, tokens, limit)
    return [*own, *run_spending(settings, chosen)]
