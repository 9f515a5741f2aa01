"""Configurations of a tiny two-layer model of every architecture that the family table names."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pkedit.models.chat import ChatModel
from tiny import WORDS, proven

# Weights whose standard deviation is below this say nothing.
SMALL = 0.05
LAYERS, HIDDEN, NEURONS, EXPERTS, HEADS = 2, 32, 24, 4, 4

_SHAPE = {
    "hidden_size": HIDDEN,
    "intermediate_size": NEURONS,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
_GPT = {"n_embd": HIDDEN, "n_inner": NEURONS, "n_layer": LAYERS, "n_head": HEADS}
_ROUTED = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
    "num_key_value_heads": HEADS,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_WINDOWS = ["sliding_attention", "full_attention"]

# What an architecture calls otherwise, or has besides; windows of attention are shorter than the prompts of the tests.
_SPECIAL: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS},
    "codegen": {**_GPT, "rotary_dim": 4},
    "cohere": {**_SHAPE, "logit_scale": 0.7},
    "cohere2": {**_SHAPE, "logit_scale": 0.7, "sliding_window": 6, "layer_types": _WINDOWS},
    "deepseek_v2": {**_SHAPE, **_ROUTED, **_LATENT},
    "deepseek_v3": {**_SHAPE, **_ROUTED, **_LATENT},
    "dots1": {**_SHAPE, **_ROUTED, "first_k_dense_replace": 1, "n_routed_experts": EXPERTS, "n_shared_experts": 1}
    | {"n_group": 1, "topk_group": 1},
    "ernie4_5_moe": {**_SHAPE, **_ROUTED, "moe_num_experts": EXPERTS, "moe_k": 2, "moe_layer_start_index": 1}
    | {"moe_num_shared_experts": 1},
    "falcon": {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    | {"ffn_hidden_size": NEURONS, "multi_query": True},
    "gemma2": {**_SHAPE, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8}
    | {"sliding_window": 6, "layer_types": _WINDOWS},
    "gemma3_text": {**_SHAPE, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}
    | {"sliding_window": 6, "layer_types": _WINDOWS},
    "glm4_moe": {**_SHAPE, **_ROUTED, "first_k_dense_replace": 1, "n_routed_experts": EXPERTS, "n_shared_experts": 1}
    | {"n_group": 1, "topk_group": 1},
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_oss": {**_SHAPE, **_ROUTED, "num_local_experts": EXPERTS, "sliding_window": 6, "layer_types": _WINDOWS},
    "gptj": {**_GPT, "rotary_dim": 4},
    "granite": {**_SHAPE, "logits_scaling": 2.0},
    "granitemoe": {**_SHAPE, **_ROUTED, "num_local_experts": EXPERTS, "logits_scaling": 2.0},
    "llama4_text": {**_SHAPE, "num_experts_per_tok": 1, "num_local_experts": EXPERTS, "intermediate_size_mlp": NEURONS}
    | {"interleave_moe_layer_step": 2, "attention_chunk_size": 32, "attn_temperature_tuning": False},
    "gemma4_text": {**_SHAPE, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 209, "global_head_dim": 8}
    | {"sliding_window": 6, "layer_types": _WINDOWS, "num_kv_shared_layers": 0, "final_logit_softcapping": 3.0},
    "lfm2": {**_SHAPE, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "minimax_m2": {**_SHAPE, **_ROUTED, "num_local_experts": EXPERTS, "rotary_dim": 8},
    "mistral": {**_SHAPE, "sliding_window": 6},
    "mixtral": {**_SHAPE, **_ROUTED, "num_local_experts": EXPERTS},
    "mpt": {"d_model": HIDDEN, "n_heads": HEADS, "n_layers": LAYERS, "expansion_ratio": 2, "max_seq_len": 128},
    "olmoe": {**_SHAPE, **_ROUTED, "num_experts": EXPERTS},
    "opt": {**_SHAPE, "ffn_dim": NEURONS, "word_embed_proj_dim": 16},
    "phimoe": {**_SHAPE, **_ROUTED, "num_local_experts": EXPERTS},
    "qwen2_moe": {**_SHAPE, **_ROUTED, "num_experts": EXPERTS, "shared_expert_intermediate_size": NEURONS},
    "qwen3_5_text": {**_SHAPE, **_LINEAR},
    "qwen3_next": {**_SHAPE, **_ROUTED, **_LINEAR, "num_experts": EXPERTS, "shared_expert_intermediate_size": NEURONS},
    "qwen3_moe": {**_SHAPE, **_ROUTED, "num_experts": EXPERTS, "decoder_sparse_step": 2},
}


def architecture(model_type: str, **changed: Any) -> Any:
    """The configuration, with whatever is given changed."""
    common = {
        "vocab_size": len(WORDS),
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    shape = {**_SPECIAL.get(model_type, _SHAPE), **changed}
    if "layer_types" in shape:
        shape["layer_types"] = shape["layer_types"] * (shape["num_hidden_layers"] // LAYERS)
    if model_type == "gemma3":
        # A model that sees: its text part stands beside a tower of its own.
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        return AutoConfig.for_model(
            "gemma3",
            text_config={**common, **_SPECIAL["gemma3_text"], "final_logit_softcapping": None, **changed},
            vision_config={**vision, "image_size": 28, "patch_size": 14},
            mm_tokens_per_image=4,
            tie_word_embeddings=False,
            **{name: common[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range")},
        )
    if model_type == "mpt":
        common.pop("max_position_embeddings")
    return AutoConfig.for_model(model_type, **{**common, **shape})


def make_architecture(model_type: str, *, seed: int = 0, **changed: Any) -> Any:
    """A random model in float32 whose weights are large enough for every neuron to matter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(architecture(model_type, **changed), dtype=torch.float32).eval()
        with torch.no_grad():
            for weight in model.parameters():
                # Some architectures start with weights of another size, or with none at all.
                if weight.dim() > 1 and weight.std() < SMALL:
                    weight.normal_(std=0.3)
    return model


def make_architecture_chat(model_type: str, **changed: Any) -> ChatModel:
    """It as a chat model: a copy, for each is proven only once."""
    return proven(lambda: make_architecture(model_type, **changed), "architecture", model_type, changed)
