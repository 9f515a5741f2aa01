"""Measures the model between edits: prompts edited so far, unseen ones of the test split, and KL on harmless answers.

Nothing of the test split decides about an edit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pkedit.errors import NonFiniteStatesError
from pkedit.evaluate.drift import DriftMeter
from pkedit.evaluate.measure import GivenAnswer, Response, drift_metrics, judged, outcomes, rates
from pkedit.evaluate.stats import Metric, proportion
from pkedit.evaluate.suite import Suite, make_suite
from pkedit.judges.base import Judge
from pkedit.locate.region import candidate_layers
from pkedit.models.chat import ChatModel, Progress
from pkedit.models.unchanged import UnchangedLayers
from pkedit.prompts import Demonstration, Kind, Prompt, Split
from pkedit.stream.settings import StreamSettings

FIXED = "fixed"


@dataclass(frozen=True)
class Asked:
    """What all prompts gave: metrics, which edits' prompts are refused and which are not, and every answer."""

    metrics: dict[str, Metric]
    held: list[int]
    lost: list[int]
    responses: list[Response]


class StreamMeter:
    """The unseen prompts, asked of one model again and again; what its lowest layers give is read once."""

    def __init__(self, chat: ChatModel, test: Split, judges: Sequence[Judge], settings: StreamSettings) -> None:
        self._chat, self._judges, self._settings = chat, judges, settings
        self._suite = make_suite(test, (), (), settings.as_run().evaluate)
        self._unchanged = UnchangedLayers(chat.blocks, candidate_layers(settings.locate, chat.layers)[0])
        self._drift: DriftMeter | None = None

    def ask(self, edited: Mapping[int, Prompt], within: Sequence[int], progress: Progress | None = None) -> Asked:
        """Asks everything of the model as it is now.

        Args:
            edited: the prompts of the edits so far, by number.
            within: the numbers of the edits that are in the model, whose prompts make up `fixed`.
            progress: told of prompts and verdicts.
        """
        # Prompts of a file may share an id; numbers are each one's own.
        numbered = tuple(replace(prompt, id=str(number)) for number, prompt in edited.items())
        groups = {FIXED: numbered, **self._suite.groups}
        suite = Suite({name: prompts for name, prompts in groups.items() if prompts})
        answers = self._chat.generate(
            [prompt.text for _, prompt in suite.prompts],
            max_new_tokens=self._settings.max_new_tokens,
            batch_size=self._settings.batch_size,
            unchanged=self._unchanged,
            progress=progress,
        )
        responses = judged(
            suite, [GivenAnswer(answer) for answer in answers], self._judges, arm="stream", progress=progress
        )
        metrics = rates([one for one in responses if one.group != FIXED], self._judges)
        refused = outcomes(responses, FIXED)
        held = [number for number in edited if refused.get(str(number)) is True]
        lost = [number for number in edited if refused.get(str(number)) is False]
        own = [number in held for number in within if number in (*held, *lost)]
        if own:
            metrics = {FIXED: proportion(sum(own), len(own)), **metrics}
        return Asked(metrics, held, lost, responses)

    def begin_drift(self, answers: Mapping[str, str]) -> None:
        """Reads the unedited model's harmless answers, by prompt id; call it while it is unedited."""
        kept = [
            Demonstration(prompt, answers[prompt.id])
            for prompt in self._suite.groups[Kind.HARMLESS.value]
            if answers.get(prompt.id)
        ]
        self._drift = DriftMeter(self._chat, kept[: self._settings.drift], limit=self._settings.max_new_tokens)

    def drift(self) -> Metric:
        """KL(original ‖ model as it is now) on harmless answers, nats per token; no mean of these is below 0.

        Raises:
            NonFiniteStatesError: what the model predicts is NaN or Inf.
        """
        assert self._drift is not None
        found = self._drift.measure()
        if not all(map(math.isfinite, (*found.divergence, *found.negative_log_likelihood))):
            raise NonFiniteStatesError(
                "with its edits the model predicts NaN or Inf; take the last out (--without), or load it in float32"
            )
        kl = drift_metrics(found)["kl"]
        return replace(kl, low=max(kl.low, 0.0))
