"""The settings of SafeEdit's protocol, each default with its reason, and the record that a run of it leaves. No torch.

One case is one instance: what the defaults of `EditSettings` share out over hundreds of pairs is chosen anew here.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pkedit.run.record import RecordedMetric
from pkedit.settings import EditSettings, LocateSettings

SCHEMA_VERSION = 1


def one_instance_locating() -> LocateSettings:
    """How PKE locates on one instance: the instance stands for both of the two pairs that the signals need."""
    return LocateSettings(pairs=2)


def one_instance_editing() -> EditSettings:
    """How PKE learns from one instance.

    A step sees everything there is, and training stops at the step in which the instance is met. Without dropout, so
    that this is read off the edit itself and not off a part of it. More of each answer is learnt than in a run: nearly
    the whole refusal, and more closely (τ), because one refusal's opening alone leaves the embedded model without words
    to go on with and it babbles; and more of the harmless answers, for there are few of them.
    """
    return EditSettings(
        pairs_per_step=1,
        demonstrations_per_step=64,
        dropout=0.0,
        activation_noise=0.0,
        safe_tokens=64,
        threshold=0.1,
        harmless_tokens=16,
    )


class SafeEditSettings(BaseModel):
    """Everything that decides the numbers of a run of SafeEdit's protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(description="a file in SafeEdit's format, or `safeedit` for the published test cases")
    method: Literal["vanilla", "pke", "dinm", "ft"]
    model: str = "smollm2"
    device: str | None = None
    dtype: str | None = None
    chat_template: str | None = None
    mlp_write: str | None = Field(None, description="the MLP's write matrix in a layer, for an unknown architecture")
    trust_remote_code: bool = False
    quantisation: Literal["4bit", "8bit"] | None = Field(None, description="at load; the edit acts beside the weights")
    cases: int | None = Field(
        None, ge=1, description="so many cases, drawn by the seed, for a file may be sorted by category; absent: all"
    )
    vanilla: bool = Field(True, description="ask the unedited model too: without it no figure says what the edit did")
    judges: tuple[str, ...] = Field(
        ("rules", "embedded"),
        min_length=1,
        description="rules, embedded, guard:MODEL, remote:MODEL; the first counts, the others are in the record",
    )
    judge_api_base: str | None = None
    max_new_tokens: int = Field(
        128,
        ge=4,
        description="of every answer; what follows a refusal shows by then. EasyEdit gives 600: use it on a GPU",
    )
    batch_size: int = Field(6, ge=1, description="answers at once; all of a case, whose prompts may be long")
    kept: int = Field(
        24,
        ge=3,
        description="built-in harmless prompts beside the case's own, for PKE; a third each plain, wrapped, borderline",
    )
    answer_tokens: int = Field(
        256,
        ge=1,
        description="tokens of an answer that DINM and FT-L learn and DINM locates by: as published, nearly all",
    )
    locate: LocateSettings = Field(default_factory=one_instance_locating)
    edit: EditSettings = Field(default_factory=one_instance_editing)
    fast: bool = Field(
        False,
        description="PKE locates and trains at the tokens that decide, by the settings of `edit/instance.py`; the "
        "case's own harmless answer is then not among those kept, which are read once for all cases",
    )
    seed: int = 0

    @model_validator(mode="after")
    def _fast_is_pke(self) -> Self:
        if self.fast and self.method != "pke":
            raise ValueError(f"fast is a way of PKE's, and the method is {self.method}")
        return self


class SafeEditRecord(BaseModel):
    """What `safeedit.json` holds. `metrics[arm][name]`: a metric that was not measured is absent, never 0.

    Names are SafeEdit's (`ds`, `dg_only_q` … `dg_avg`, `fluency`), `knowledge_refused` and `seconds_per_edit`; the
    rates of judges after the first end in the judge's name. `unjudged[arm][group]` counts answers without a verdict of
    the first judge. `failed`: the cases whose edit diverged, which are in no average.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    created: str
    command: str
    settings: SafeEditSettings
    file_sha256: str
    cases_in_file: int
    versions: dict[str, str]
    hardware: dict[str, Any]
    model_note: str = ""
    kept_prompts: list[str] = []
    finished: int = 0
    failed: list[str] = []
    metrics: dict[str, dict[str, RecordedMetric]] = {}
    unjudged: dict[str, dict[str, int]] = {}
    notes: list[str] = []
