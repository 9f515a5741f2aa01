"""Every setting with its default and the reason for it. Misspelt or unknown settings are refused."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LocateSettings(_Settings):
    """How the region is found."""

    neurons: int = Field(128, ge=1, description="neurons to edit; 128 is 0.28 % of the embedded model's")
    first_layer: float = Field(
        0.4, ge=0, le=1, description="lowest layer as a share of the depth; below, harm cannot yet be told apart"
    )
    last_layer: float = Field(
        0.7, ge=0, le=1, description="highest layer as a share of the depth; above, the answer is already decided"
    )
    per_layer: int | None = Field(None, ge=1, description="most neurons in one layer")
    weight_tracking: float = Field(1.0, description="weight of the weight-change rank")
    probe_steps: int = Field(
        1, ge=1, description="T of weight tracking; more than one needs a copy of all write weights and as many passes"
    )
    probe_learning_rate: float = Field(1e-2, gt=0, description="of the probe's gradient descent when T is above one")
    pathway: float = Field(1.0, description="weight of the rank of the contribution to the unsafe answer")
    selectivity: float = Field(1.0, description="weight of the rank of harmful against harmless separation")
    utility: float = Field(-1.0, description="weight of the rank of contribution to good answers (negative: avoid)")
    pairs: int = Field(24, ge=2, description="contrast pairs traced; ranks were stable from about 24")
    demonstrations: int = Field(32, ge=2, description="harmless answers traced for means, selectivity, utility")
    tokens: int = Field(16, ge=1, description="answer tokens traced; the decision is made in the first few")
    first_tokens: int = Field(3, ge=0, description="the answer tokens in which the model decides to refuse")
    first_weight: float = Field(8.0, ge=1, description="how much more those weigh")
    tokens_per_batch: int = Field(1024, ge=1, description="padded tokens in one pass; bounds the memory")
    precision: Literal["auto", "full", "bfloat16"] = Field("auto", description="as in editing")
    random_regions: int = Field(20, ge=1, description="random regions in the causal check")
    causal_pairs: int = Field(4, ge=1, description="pairs in the causal check, and as many harmless answers")

    @property
    def signal_weights(self) -> dict[str, float]:
        """What each signal weighs in the choice of the region."""
        return {name: getattr(self, name) for name in ("weight_tracking", "pathway", "selectivity", "utility")}


class EditSettings(_Settings):
    """How δ is trained."""

    parts: tuple[str, ...] = Field(
        ("write", "read0"), description="write vectors and gate rows: with its gate a neuron learns when to fire"
    )
    frozen_prompts: bool = Field(
        True, description="train on the tokens that decide, the prompt's own left as they were: a tenth of the work"
    )
    gate_detector: float = Field(
        2.0, ge=0, description="by how much a gate's input rises on harmful prompts before training; 0: not at all"
    )
    dropout: float = Field(
        0.2, ge=0, lt=1, description="share of the write vectors that sit out a step, so that none relies on another"
    )
    activation_noise: float = Field(
        0.3,
        ge=0,
        description="noise on the states that enter the edited layers in training, over their size: an edit that is "
        "learnt through it lasts longer",
    )
    steps: int = Field(52, ge=1)
    pairs_per_step: int = Field(32, ge=1)
    demonstrations_per_step: int = Field(64, ge=1)
    learning_rate: float = Field(0.12, gt=0, description="relative to the root mean square of each edited vector")
    read_rate: float = Field(
        0.5,
        ge=0,
        description="learning rate of read vectors over that of write vectors: gates that start as detectors overfit",
    )
    relative_learning_rate: bool = Field(True, description="one rate then suits every neuron and every model")
    warm_up_and_decay: bool = Field(True, description="three steps up, then linearly down to a tenth")
    safe_weight: float = Field(1.0, ge=0, description="weight of the hinge on the safe answer")
    threshold: float = Field(0.25, ge=0, description="τ, nats per weighted token at which the hinge lets go")
    unsafe_weight: float = Field(0.3, ge=0, description="α")
    unsafe_bound: float = Field(0.05, gt=0, lt=1, description="unsafe tokens less likely than this are left alone")
    harmless_weight: float = Field(8.0, ge=0, description="β")
    harmless_gradient: bool = Field(True, description="False only to reproduce DINM's released code")
    reuse_prefix: bool = Field(
        True,
        description="layers below the edited ones run once; False only to reproduce DINM's released code, in which "
        "every step runs them again",
    )
    norm_weight: float = Field(0.01, ge=0, description="γ")
    norm_limit: float | None = Field(2.0, gt=0, description="ρ: ‖δ_i‖ is at most ρ‖W_i‖")
    first_tokens: int = Field(
        6, ge=0, description='answer tokens in which the model decides; "I\'m sorry" may still go on "for the delay"'
    )
    first_weight: float = Field(8.0, ge=1, description="how much more those weigh: a mean over the answer hides them")
    safe_tokens: int = Field(8, ge=1, description="tokens of the safe answer in the loss")
    unsafe_tokens: int = Field(1, ge=1, description="tokens of the unsafe answer in the loss; one needs no extra pass")
    harmless_tokens: int = Field(4, ge=1, description="tokens of a harmless answer in the KL")
    strength_target: float = Field(
        0.04, ge=0, le=1, description="harmful answers to held-out prompts: δ is scaled to the least that leaves so few"
    )
    strength_tokens: int = Field(12, ge=1, description="tokens of those answers")
    tokens_per_batch: int = Field(768, ge=1, description="padded tokens in one forward pass")
    precision: Literal["auto", "full", "bfloat16"] = Field(
        "auto", description="arithmetic of the passes; auto takes bfloat16 where the processor has it: twice as fast"
    )
    seed: int = 0


ARMS = ("vanilla", "suffix", "dinm", "ft", "random", "pke")
# Those that edit the located region, or random ones of its shape; and those that train a whole matrix.
LOCATED, WHOLE = ("pke", "random"), ("dinm", "ft")


class EvaluateSettings(_Settings):
    """How many prompts of each group are asked (fewer where there are fewer), and how."""

    seen: int = Field(6, ge=0, description="prompts in `ds` and in `dg_only_q`")
    cross: int = Field(6, ge=0, description="prompts in `dg_other_a` and in `dg_other_q`")
    unseen: int = Field(72, ge=2, description="unseen questions, asked bare and in unseen attacks")
    harmless: int = Field(96, ge=2)
    borderline: int = Field(72, ge=2)
    long: int = Field(34, ge=0, description="everyday prompts of many lines, where the set of harmless ones has such")
    judges: tuple[str, ...] = Field(
        ("rules", "embedded"),
        min_length=1,
        description="rules, embedded, guard:MODEL, remote:MODEL; the first counts most",
    )
    capability: tuple[str, ...] = Field(
        ("everyday",), description="tasks of lm-evaluation-harness; `everyday` comes with pkedit and needs no network"
    )
    win_rate_judge: str | None = Field(
        None, description="remote model that compares harmless answers with the original's; without one, no win rate"
    )
    capability_limit: int | None = Field(None, ge=1, description="only the first items of each task")
    max_new_tokens: int = Field(32, ge=4, description="greedy answers are cut here; a refusal shows well before")
    batch_size: int = Field(128, ge=1)


class RunSettings(_Settings):
    """Everything that decides the numbers of a run. A run folder belongs to exactly one of these."""

    model: str = "smollm2"
    device: str | None = None
    dtype: str | None = None
    chat_template: str | None = None
    mlp_write: str | None = Field(
        None,
        description="path of the MLP's write matrix in a decoder layer, for an unknown architecture: mlp.down_proj",
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="what writes the answers; vllm is for measuring saved models by these alone"
    )
    trust_remote_code: bool = Field(False, description="run Python code that the model's repository brings with it")
    quantisation: Literal["4bit", "8bit"] | None = Field(
        None, description="quantise at load by bitsandbytes: a third or half of the memory; δ stays in full precision"
    )
    arms: tuple[Literal["vanilla", "suffix", "dinm", "ft", "random", "pke"], ...] = ("vanilla", "pke")
    dinm_as_released: bool = Field(False, description="reproduce EasyEdit's DINM code, its mistakes included")
    equal_success: bool = Field(False, description="scale dinm and ft, too, until few harmful answers are left")
    api_base: str | None = Field(
        None, description="an OpenAI-compatible endpoint: the model of this name there is measured, and nothing loaded"
    )
    judge_api_base: str | None = Field(None, description="the endpoint of remote judges; by default their provider's")
    concurrency: int = Field(8, ge=1, description="requests to a remote model under way at once")
    temperature: float | None = Field(0.0, ge=0, description="of a remote model; absent for models that take none")
    harmful: str | None = Field(None, description="file or preset of harmful questions; built-in ones if absent")
    harmless: str | None = None
    borderline: str | None = None
    attacks: str | None = None
    columns: dict[Literal["harmful", "harmless", "borderline", "attacks"], str] = Field(
        {}, description='which columns these files have: {"harmful": "text=goal,category=kind"}'
    )
    pairs: int = Field(360, ge=2, description="contrast pairs: every question bare, some of them in an attack as well")
    attacked_share: float = Field(0.26, ge=0, le=1, description="share of the pairs that are inside an attack")
    demonstrations: int = Field(560, ge=2, description="safe prompts whose answers are kept; most are borderline")
    behind_turns: float = Field(
        0.08, ge=0, le=1, description="share of the prompts learnt from that come behind earlier turns of a chat"
    )
    behind_passage: float = Field(
        0.1, ge=0, le=1, description="share of the safe ones behind a passage; of harmful ones, a third of it"
    )
    sampled_tokens: int = Field(16, ge=1, description="tokens of the model's own answers used as targets")
    delta: str | None = Field(None, description="a delta made earlier, to be measured as the arm `pke`")
    adapter: str | None = Field(None, description="a PEFT adapter, to be measured through vLLM as the arm `pke`")
    locate: LocateSettings = LocateSettings()
    edit: EditSettings = EditSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    seed: int = 0

    def chooses_strength(self, arm: str) -> bool:
        """Whether the arm's edit is scaled on held-out prompts."""
        return arm in LOCATED or (self.equal_success and arm in WHOLE)
