"""The settings of a stream, each default with its reason. No torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pkedit.settings import EditSettings, EvaluateSettings, LocateSettings, RunSettings


def stream_locating() -> LocateSettings:
    """Where: as for single instances, few neurons in later layers, for only these run in training."""
    return LocateSettings(neurons=32, first_layer=0.55, last_layer=0.75, pairs=2)


def stream_editing() -> EditSettings:
    """How: small steps until the instance is met, for whatever an edit does beyond its instance adds up over a stream.

    Every step sees harmless answers of those that drift most; KL is to the unedited model's.
    """
    return EditSettings(
        steps=24,
        pairs_per_step=1,
        demonstrations_per_step=8,
        learning_rate=0.25,
        dropout=0.0,
        activation_noise=0.0,
        safe_tokens=12,
        harmless_tokens=3,
        first_tokens=12,
        first_weight=4.0,
        norm_limit=4.0,
    )


class StreamSettings(BaseModel):
    """Everything that decides the numbers of a stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "smollm2"
    device: str | None = None
    dtype: str | None = None
    chat_template: str | None = None
    mlp_write: str | None = None
    trust_remote_code: bool = False
    quantisation: Literal["4bit", "8bit"] | None = None
    edits: int = Field(100, ge=1, description="edits in all; a folder may be given more later")
    every: int = Field(20, ge=1, description="the model is measured after so many edits, and at the end")
    questions: str | None = Field(
        None, description="file or preset of harmful prompts, edited in its order; built-in questions if absent"
    )
    every_prompt: bool = Field(
        False, description="edit on one prompt after another, refused or not, as benchmarks of sequential editing do"
    )
    kept: int = Field(72, ge=6, description="built-in harmless answers that all edits keep; most are borderline")
    judges: tuple[str, ...] = Field(
        ("rules", "embedded"), min_length=1, description="the first says which prompts fail, and which are refused"
    )
    asked_tokens: int = Field(16, ge=1, description="of the answer that shows a failure; the edit learns from it")
    prompts: int = Field(48, ge=2, description="unseen prompts in each group that is measured")
    drift: int = Field(24, ge=2, description="harmless answers among these on which KL is measured")
    drift_every: int = Field(10, ge=1, description="KL is measured after so many edits; it costs more than an edit")
    max_new_tokens: int = Field(32, ge=4, description="of measured answers; a refusal shows well before")
    batch_size: int = Field(128, ge=1)
    locate: LocateSettings = Field(default_factory=stream_locating)
    edit: EditSettings = Field(default_factory=stream_editing)
    seed: int = 0

    def as_run(self) -> RunSettings:
        """What loads the model, deals the splits and says how many prompts of each group are asked."""
        shared = ("model", "device", "dtype", "chat_template", "mlp_write", "trust_remote_code", "quantisation", "seed")
        measured = EvaluateSettings(
            seen=0,
            cross=0,
            unseen=self.prompts,
            harmless=self.prompts,
            long=self.prompts,
            borderline=self.prompts,
            judges=self.judges,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )
        return RunSettings(
            demonstrations=self.kept, evaluate=measured, **{name: getattr(self, name) for name in shared}
        )
