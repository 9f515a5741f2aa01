"""Where each architecture keeps its decoder layers and MLPs: one entry per `config.model_type`, of the text part.

An architecture that is laid out like another is one more name in a list. The probe (`probe.py`) proves an entry on
every model that is loaded; an architecture that is not listed is looked at by `structure.py`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mlp:
    """A dense MLP; paths are relative to the decoder layer.

    `reads` are the projections that decide the activation, the gate first where there is one. With `fused` one
    projection gives the outputs of the gate and behind them those of the other. `transposed` weights are stored
    [in, out] (Conv1D).
    """

    write: str
    reads: tuple[str, ...]
    fused: bool = False
    transposed: bool = False


@dataclass(frozen=True)
class Experts:
    """The routed experts of a layer: a module whose parameters `gate_up_proj` and `down_proj` hold all of them.

    `path` is relative to the decoder layer. Stored are [experts, out, in], or [experts, in, out] where `transposed`.
    The outputs of the gate come first, those of the other projection behind them, or by turns where `interleaved`.
    With `scaled_inputs` the module receives every token once per expert, scaled by the router's score (0 where the
    expert was not chosen); without, it receives each token once, with the chosen experts and their scores.
    """

    path: str
    transposed: bool = False
    interleaved: bool = False
    scaled_inputs: bool = False


@dataclass(frozen=True)
class Family:
    """One architecture. `blocks` and `norm` are relative to the body, the model without its head.

    A layer holds one of `mlps`, or one of `experts`, or both where experts are shared.
    """

    mlps: tuple[Mlp, ...]
    experts: tuple[Experts, ...] = ()
    blocks: str = "layers"
    norm: str | None = "norm"


def gated(path: str) -> Mlp:
    """The MLP that Llama made common, below `path`."""
    return Mlp(f"{path}.down_proj", (f"{path}.gate_proj", f"{path}.up_proj"))


_GATED = Family((gated("mlp"),))
_UNGATED = Family((Mlp("mlp.down_proj", ("mlp.up_proj",)),))
_FUSED = Family((Mlp("mlp.down_proj", ("mlp.gate_up_proj",), fused=True),))
_GPT_J = Family((Mlp("mlp.fc_out", ("mlp.fc_in",)),), blocks="h", norm="ln_f")
_BLOOM = Family((Mlp("mlp.dense_4h_to_h", ("mlp.dense_h_to_4h",)),), blocks="h", norm="ln_f")
_ROUTED = Family((gated("mlp"),), (Experts("mlp.experts"),))
_SHARED = Family((gated("mlp"), gated("mlp.shared_expert")), (Experts("mlp.experts"),))
_SHARED_EXPERTS = Family((gated("mlp"), gated("mlp.shared_experts")), (Experts("mlp.experts"),))

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        [
            "cohere",
            "cohere2",
            "ernie4_5",
            "exaone4",
            "gemma",
            "gemma2",
            "gemma3_text",
            "gemma4_text",
            "granite",
            "helium",
            "hunyuan_v1_dense",
            "llama",
            "ministral",
            "ministral3",
            "mistral",
            "olmo",
            "olmo2",
            "olmo3",
            "qwen2",
            "qwen3",
            "qwen3_5_text",
            "seed_oss",
            "smollm3",
            "stablelm",
        ],
        _GATED,
    ),
    **dict.fromkeys(["apertus", "arcee", "nemotron"], _UNGATED),
    **dict.fromkeys(["glm", "glm4", "phi3"], _FUSED),
    **dict.fromkeys(["codegen", "gptj"], _GPT_J),
    **dict.fromkeys(["bloom", "falcon"], _BLOOM),
    **dict.fromkeys(["minimax_m2", "mixtral", "olmoe", "phimoe", "qwen3_moe"], _ROUTED),
    **dict.fromkeys(["qwen2_moe", "qwen3_next"], _SHARED),
    **dict.fromkeys(["deepseek_v2", "deepseek_v3", "dots1", "ernie4_5_moe", "glm4_moe"], _SHARED_EXPERTS),
    "gpt2": Family((Mlp("mlp.c_proj", ("mlp.c_fc",), transposed=True),), blocks="h", norm="ln_f"),
    "gpt_bigcode": Family((Mlp("mlp.c_proj", ("mlp.c_fc",)),), blocks="h", norm="ln_f"),
    "gpt_neox": Family((Mlp("mlp.dense_4h_to_h", ("mlp.dense_h_to_4h",)),), norm="final_layer_norm"),
    "gpt_oss": Family((), (Experts("mlp.experts", transposed=True, interleaved=True),)),
    "granitemoe": Family((), (Experts("block_sparse_moe.experts"),)),
    "lfm2": Family((Mlp("feed_forward.w2", ("feed_forward.w1", "feed_forward.w3")),), norm="embedding_norm"),
    "llama4_text": Family(
        (gated("feed_forward"), gated("feed_forward.shared_expert")),
        (Experts("feed_forward.experts", transposed=True, scaled_inputs=True),),
    ),
    "mpt": Family((Mlp("ffn.down_proj", ("ffn.up_proj",)),), blocks="blocks", norm="norm_f"),
    "opt": Family((Mlp("fc2", ("fc1",)),), norm="final_layer_norm"),
    "persimmon": Family((Mlp("mlp.dense_4h_to_h", ("mlp.dense_h_to_4h",)),), norm="final_layernorm"),
    "phi": Family((Mlp("mlp.fc2", ("mlp.fc1",)),), norm="final_layernorm"),
    "starcoder2": Family((Mlp("mlp.c_proj", ("mlp.c_fc",)),)),
}
