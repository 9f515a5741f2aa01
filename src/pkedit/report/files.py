"""The files of a run folder that the report reads beside `run.json`, each checked before anything is drawn from it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pkedit.errors import RunFolderError, first_line
from pkedit.report.text import all_visible
from pkedit.run.record import RecordedMetric

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Neuron(_File):
    """A neuron of the region with its score and the ranks that made it, each in [0, 1]."""

    layer: int = Field(ge=0)
    index: int = Field(ge=0)
    expert: int | None = None
    score: Finite
    ranks: dict[str, Finite] = {}
    values: dict[str, Finite] = {}


class RegionFile(_File):
    """`region.json`. `layer_totals[SIGNAL]` and `layer_weight_change` (‖W_after − W_before‖_F) have a value a layer."""

    schema_version: Literal[1] = 1
    neurons: list[Neuron] = Field(min_length=1)
    signals: dict[str, Finite]
    layer_totals: dict[str, list[Finite]] = {}
    layer_weight_change: list[Finite] = []

    @property
    def counts(self) -> dict[int, int]:
        """Neurons of the region in each layer that has any, from the lowest."""
        layers = [neuron.layer for neuron in self.neurons]
        return {layer: layers.count(layer) for layer in sorted(set(layers))}

    @property
    def depth(self) -> int:
        """How many layers the model has, as far as the file tells."""
        lengths = [len(values) for values in (*self.layer_totals.values(), self.layer_weight_change)]
        return max([1 + max(self.counts), *lengths])


class Node(_File):
    """A node of the pathway graph; `contribution` in nats of M = log p(unsafe) − log p(safe)."""

    id: str
    kind: Literal["prompt", "attention", "neuron", "unsafe"]
    layer: int = 0
    expert: int | None = None
    index: int = 0
    contribution: Finite = 0.0
    edited: bool = False
    words: list[str] = []


class Edge(_File):
    """How much of M, in nats, goes from one node to another."""

    start: str = Field(alias="from")
    end: str = Field(alias="to")
    weight: Finite


class PathwayFile(_File):
    """`pathway.json`. `attention` and `mlp`: the contribution of each layer's blocks to M, in nats."""

    schema_version: Literal[1]
    pairs: int
    note: str = ""
    layers: int = 0
    attention: list[Finite]
    mlp: list[Finite]
    nodes: list[Node]
    edges: list[Edge]


class NeuronWords(_File):
    """The tokens that a neuron's write vector promotes most; `change` = ‖δ_w‖ / ‖w‖."""

    layer: int
    expert: int | None = None
    index: int
    score: Finite
    change: Finite
    before: list[str]
    after: list[str]


class WordsFile(_File):
    """`words.json`: the neurons whose write vector changed most, first ones first."""

    schema_version: Literal[1]
    note: str = ""
    neurons: list[NeuronWords]


class Trial(_File):
    """Settings that were tried, and what they gave on the select split. `front`: no other trial is better in all."""

    number: int
    settings: dict[str, Any] = {}
    asr: RecordedMetric
    over_refusal: RecordedMetric
    borderline_refusal: RecordedMetric | None = None
    kl: RecordedMetric
    seconds: Finite = 0.0
    front: bool = False
    chosen: bool = False


class TuneFile(_File):
    """`tune.json`: how the settings were chosen, by which `rule`. `failed`: trials without figures, and why."""

    schema_version: Literal[1]
    model: str = ""
    split: str = "select"
    rule: str = ""
    vanilla: dict[str, Any] = {}
    trials: list[Trial]
    failed: list[dict[str, Any]] = []


Content = TypeVar("Content", bound=BaseModel)


def read_file(path: Path, kind: type[Content]) -> Content | None:
    """The file's content with all text visible, or nothing where there is no such file.

    Raises:
        RunFolderError: the file is damaged, or of a schema that this pkedit does not read.
    """
    if not path.is_file():
        return None
    try:
        return kind.model_validate(all_visible(json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))))
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(
            f"{path}: damaged, or of another pkedit ({_reason(error)}); remove the run folder and run again"
        ) from None


def read_rows(path: Path) -> Iterable[dict[str, Any]]:
    """The lines of `responses.jsonl`, text visible, bytes that are not UTF-8 named; nothing where there is no file.

    Raises:
        RunFolderError: a line is not a JSON object.
    """
    if not path.is_file():
        return
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({error.strerror}); make it readable and try again") from None
    # An answer may hold the other separators that `splitlines` knows.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RunFolderError(
                f"{path}: damaged in line {number} ({error}); remove the run folder and run again"
            ) from None
        if not isinstance(row, dict):
            raise RunFolderError(
                f"{path}: damaged in line {number} (no JSON object); remove the run folder and run again"
            )
        yield all_visible(row)


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        fault = error.errors()[0]
        return f"{'.'.join(str(part) for part in fault['loc']) or 'content'}: {fault['msg'].lower()}"
    return first_line(error)
