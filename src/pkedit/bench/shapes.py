"""Well-known architectures, of which models with random weights cost what the real ones do. No torch.

Nothing is downloaded to measure them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Shape:
    """What of a published configuration decides the cost. `kind` is transformers' `model_type`."""

    kind: str
    hidden: int
    neurons: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool = False


# From the config.json of meta-llama/Meta-Llama-3-8B-Instruct, meta-llama/Llama-2-7b-chat-hf,
# mistralai/Mistral-7B-Instruct-v0.3, Qwen/Qwen2.5-7B-Instruct and HuggingFaceTB/SmolLM2-*-Instruct.
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "llama3-8b": Shape("llama", 4096, 14336, 32, 32, 8, 128256),
        "llama2-7b": Shape("llama", 4096, 11008, 32, 32, 32, 32000),
        "mistral-7b": Shape("mistral", 4096, 14336, 32, 32, 8, 32768),
        "qwen2.5-7b": Shape("qwen2", 3584, 18944, 28, 28, 4, 152064),
        "smollm2-1.7b": Shape("llama", 2048, 8192, 24, 32, 32, 49152, tied=True),
        "smollm2-360m": Shape("llama", 960, 2560, 32, 15, 5, 49152, tied=True),
        "smollm2-135m": Shape("llama", 576, 1536, 30, 9, 3, 49152, tied=True),
    }
)
