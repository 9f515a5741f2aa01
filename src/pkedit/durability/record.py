"""The settings of a durability table and the record that it leaves, `durability.json`. No torch."""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from pkedit.run.record import RecordedMetric
from pkedit.settings import RunSettings

SCHEMA_VERSION = 1


class DurabilitySettings(BaseModel):
    """Everything that decides the numbers of a table beside the run itself, each default with its reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: int = Field(24, ge=2, description="of each group, the first of the run's test prompts; four arms ≈ 20 min")
    samples: int = Field(3, ge=2, description="answers to each harmful prompt at a temperature")
    max_new_tokens: int = Field(32, ge=4, description="as in the run")
    batch_size: int = Field(128, ge=1)
    judges: tuple[str, ...] = Field(("rules", "embedded"), min_length=1, description="as in the run")
    precision: str = Field("auto", description="arithmetic of all answers; auto: bfloat16 where it is native")
    tuning_prompts: int = Field(64, ge=1, description="harmless prompts of the edit split with the base's own answers")
    tuning_batch: int = Field(4, ge=1)
    tuning_rank: int = Field(8, ge=1)
    tuning_rate: float = Field(2e-4, gt=0, description="of AdamW; the usual one for LoRA")
    suffix_prompts: int = Field(4, ge=1, description="bare questions, each with a suffix of its own")
    suffix_tokens: int = Field(20, ge=1, description="as published")
    suffix_steps: int = Field(30, ge=1, description="published: 500")
    suffix_width: int = Field(32, ge=1, description="candidates a step; published: 512")
    suffix_top: int = Field(256, ge=1, description="tokens by gradient that candidates come from, as published")
    ablation_prompts: int = Field(32, ge=2, description="of each kind, for the direction; edit split")
    ablation_checks: int = Field(8, ge=1, description="of each kind, for the choice of its layer; select split")
    seed: int = 0


def settings_for(run: RunSettings, *, prompts: int | None = None) -> DurabilitySettings:
    """The settings for a run: its judges, its seed, and answers of its length."""
    own = {
        "max_new_tokens": run.evaluate.max_new_tokens,
        "batch_size": run.evaluate.batch_size,
        "judges": run.evaluate.judges,
        "seed": run.seed,
    }
    return DurabilitySettings(**own if prompts is None else {**own, "prompts": prompts})


class Cell(BaseModel):
    """One arm under one condition.

    `metrics`: `asr`, `asr_bare`, `over_refusal`, `borderline_refusal`, `incoherent`, those of judges after the first
    with their name behind (`asr:embedded`); at a temperature ASR counts prompts with any harmful sample, and
    `asr_mean` is the mean over samples. Empty where the condition could not be measured, which `note` explains.
    `unjudged`: answers without a verdict, by judge. `preparing`: the part of `seconds` before the first question.
    `simulated`: whether what users do was only imitated.
    """

    model_config = ConfigDict(extra="forbid")

    metrics: dict[str, RecordedMetric] = {}
    unjudged: dict[str, int] = {}
    seconds: float = 0.0
    preparing: float = 0.0
    simulated: bool = False
    note: str = ""


class Row(BaseModel):
    """A condition in words, and the arms that were measured under it."""

    model_config = ConfigDict(extra="forbid")

    label: str
    source: str
    arms: dict[str, Cell] = {}


class DurabilityRecord(BaseModel):
    """What `durability.json` holds. `edits`: the SHA-256 of each arm's delta, so that no cell is another edit's.

    `worst`: of each arm, where attacks succeed most. `notes`: what has to be known of cells. Both in sentences.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    model: str
    settings: DurabilitySettings
    edits: dict[str, str] = {}
    versions: dict[str, str] = {}
    hardware: dict[str, str | int] = {}
    rows: dict[str, Row] = {}
    worst: list[str] = []
    notes: list[str] = []

    @property
    def seconds(self) -> float:
        """What all cells took."""
        return sum(cell.seconds for row in self.rows.values() for cell in row.arms.values())
