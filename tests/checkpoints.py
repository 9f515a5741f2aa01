"""What checkpoints look like on disk, for tests: a GGUF file, and the configuration of a model of eight billion."""

from pathlib import Path

import gguf

from tiny import TEMPLATE, WORDS, make_model

EIGHT_BILLION = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def write_gguf(path: Path, kind: gguf.GGMLQuantizationType | None = None, *, seed: int = 0) -> Path:
    """The random Llama of `save_chat` as a GGUF file, its MLPs quantised to `kind`, with the same chat template."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    # A byte-level tokenizer needs the letters that its merges are made of.
    writer.add_token_list([*WORDS[:-3], "w", "1", "2"])
    writer.add_token_types([gguf.TokenType.NORMAL] * len(WORDS))
    writer.add_token_merges(["w 1", "w 2"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, weight in make_model("llama", seed=seed, hidden=32, neurons=32).state_dict().items():
        found = names.get_name(name, try_suffixes=(".weight",))
        if kind is not None and "mlp" in name:
            writer.add_tensor(found, gguf.quants.quantize(weight.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(found, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
