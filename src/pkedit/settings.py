"""Every setting with its default and the reason for it. Misspelt or unknown settings are refused."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LocateSettings(_Settings):
    """How the region is found."""

    neurons: int = Field(128, ge=1, description="neurons to edit; 128 is 0.28 % of the embedded model's")
    first_layer: float = Field(
        0.25, ge=0, le=1, description="lowest layer as a share of the depth; below, neurons serve every topic"
    )
    last_layer: float = Field(
        0.9, ge=0, le=1, description="highest layer as a share of the depth; above, only single words are chosen"
    )
    per_layer: int | None = Field(None, ge=1, description="most neurons in one layer")
    weight_tracking: float = Field(1.0, description="weight of the weight-change rank")
    pathway: float = Field(1.0, description="weight of the rank of |contribution to the unsafe answer|")
    selectivity: float = Field(1.0, description="weight of the rank of harmful against harmless separation")
    utility: float = Field(-1.0, description="weight of the rank of contribution to good answers (negative: avoid)")
    pairs: int = Field(32, ge=2, description="contrast pairs traced; ranks were stable from about 24")
    demonstrations: int = Field(48, ge=2, description="harmless answers traced for means, selectivity, utility")
    random_regions: int = Field(20, ge=1, description="random regions in the causal check")
    causal_pairs: int = Field(12, ge=2, description="pairs in the causal check")


class EditSettings(_Settings):
    """How δ is trained."""

    parts: tuple[str, ...] = Field(
        ("write", "read0"), description="write vectors and gate rows: with its gate a neuron learns when to fire"
    )
    steps: int = Field(40, ge=1)
    pairs_per_step: int = Field(10, ge=1)
    demonstrations_per_step: int = Field(20, ge=1)
    learning_rate: float = Field(0.03, gt=0, description="relative to the root mean square of each edited vector")
    threshold: float = Field(0.25, ge=0, description="τ, nats per weighted token at which the hinge lets go")
    unsafe_weight: float = Field(0.3, ge=0, description="α")
    unsafe_bound: float = Field(0.05, gt=0, lt=1, description="unsafe tokens less likely than this are left alone")
    harmless_weight: float = Field(4.0, ge=0, description="β")
    norm_weight: float = Field(0.01, ge=0, description="γ")
    norm_limit: float = Field(2.0, gt=0, description="ρ: ‖δ_i‖ is at most ρ‖W_i‖")
    first_tokens: int = Field(3, ge=0, description="the answer tokens in which the model decides to refuse")
    first_weight: float = Field(8.0, ge=1, description="how much more those weigh: a mean over the answer hides them")
    safe_tokens: int = Field(24, ge=1, description="tokens of the safe answer in the loss")
    unsafe_tokens: int = Field(8, ge=1, description="tokens of the unsafe answer in the loss")
    harmless_tokens: int = Field(16, ge=1, description="tokens of a harmless answer in the KL")
    tokens_per_batch: int = Field(2048, ge=1, description="padded tokens in one forward pass")
    precision: Literal["auto", "full", "bfloat16"] = Field(
        "auto", description="arithmetic of the passes; auto takes bfloat16 where the processor has it: twice as fast"
    )
    seed: int = 0
