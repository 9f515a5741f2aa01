"""The record that a stream leaves, `index.json`: its edits in their order, and what was measured. No torch."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pkedit.run.record import RecordedMetric
from pkedit.stream.settings import StreamSettings

SCHEMA_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamEdit(_Record):
    """One edit. `safe` is what it learnt to say, `unsafe` what the model had said, with all earlier edits in it.

    `passed_over`: prompts asked since the edit before that needed none. `met`: the safe answer became likely enough
    before the last step. `strength`: what δ was multiplied by. `kl`: of the model with this edit and all earlier ones,
    nats per token, where it was measured. `largest`: the largest ‖Σδ‖ / ‖w‖ of any vector, over all edits so far.
    `sha256`: of `file`, the edit's own delta.
    """

    number: int
    prompt_id: str
    question: str
    prompt: str
    category: str
    attack: str | None
    safe: str
    unsafe: str
    passed_over: int
    steps: int
    met: bool
    strength: float
    neurons: int
    layers: list[int]
    largest: float
    kl: RecordedMetric | None
    seconds: float
    file: str = Field(pattern=r"^edits/[0-9]+\.safetensors$")
    sha256: str = ""


class Diverged(_Record):
    """A prompt whose edit diverged: it has none. `after`: how many edits there were."""

    prompt_id: str
    after: int
    reason: str


class Measured(_Record):
    """The model after so many edits, those in `without` left out.

    `metrics`: those of a run, on unseen prompts; `kl`; and `fixed`, the share of edited prompts still refused. `held`
    and `lost` are the numbers of the edits whose prompt is refused or not, those that were taken out too.
    """

    edits: int
    without: list[int] = []
    metrics: dict[str, RecordedMetric]
    held: list[int] = []
    lost: list[int] = []
    seconds: float
    file: str = Field(pattern=r"^measured/[0-9]+(-[0-9a-f]+)?\.jsonl$")
    sha256: str = ""


class StreamRecord(_Record):
    """What `index.json` holds. `without`: the numbers of the edits that are out at present.

    `place`: where in the order of prompts the next edit is looked for. `exhausted`: behind it none fails any more.
    `refusals`: the phrasings that edits teach, in turn. `kept_sha256`: of the harmless answers that all of them keep.
    `left_out`: test questions that are not measured, because they are among the edited file's.
    """

    schema_version: int = SCHEMA_VERSION
    created: str
    command: str
    settings: StreamSettings
    questions_sha256: str | None = None
    versions: dict[str, str]
    hardware: dict[str, Any]
    model_note: str = ""
    refusals: list[str] = []
    kept_sha256: str = ""
    left_out: int = 0
    edits: list[StreamEdit] = []
    diverged: list[Diverged] = []
    without: list[int] = []
    place: int = 0
    exhausted: bool = False
    measured: list[Measured] = []

    @property
    def numbers(self) -> list[int]:
        """The edits that are in the model, in their order."""
        return [one.number for one in self.edits if one.number not in self.without]

    def found(self, edits: int, without: list[int]) -> Measured | None:
        """What was measured of this state, if it was."""
        return next((one for one in self.measured if (one.edits, one.without) == (edits, without)), None)
