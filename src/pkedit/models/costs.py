"""What passes through a model cost: floating point operations, bytes moved and layers called.

A token is multiplied with every weight that it uses, one multiplication and one addition each:

    FLOPs = tokens · (2 · weights of the layers + 4 · layers · context · attention width) + logits · 2 · head weights

where the second term is the two products of attention with `context` earlier tokens, on average. A backward pass
through frozen weights computes gradients of states alone, the same again. Sources: Kaplan et al. 2020, arXiv
2001.08361, table 1; for steps of one token bound by reading the weights, Pope et al. 2022, arXiv 2211.05102.
"""

from dataclasses import dataclass

from pkedit.models.shape import ModelShape

# Running one layer costs so much beside its arithmetic: a few dozen operations are called from Python, on any device.
LAYER_SECONDS = 4e-4
# The logits of a token are written and read so often until they are one number, in float32.
LOGIT_ROUNDS = 6


@dataclass(frozen=True)
class Peaks:
    """`matmul_flops`: floating point operations per second of a matrix product. `bandwidth_bytes`: read and written
    per second by a large copy."""

    matmul_flops: float
    bandwidth_bytes: float


@dataclass(frozen=True)
class Formats:
    """Bytes of a number: `weight` as stored, `state` as multiplied. Where they differ, weights are cast before they
    are multiplied: in every pass, or `cast_once` for all."""

    weight: float
    state: float
    cast_once: bool = False

    @property
    def read(self) -> float:
        """Bytes moved per weight in one pass."""
        if self.weight <= self.state or self.cast_once:
            return min(self.weight, self.state)
        return self.weight + 2 * self.state


@dataclass(frozen=True)
class Work:
    """Floating point operations, bytes moved through memory, and how often a layer is called."""

    flops: float = 0.0
    moved: float = 0.0
    layer_calls: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        """Both, one after the other."""
        return Work(self.flops + other.flops, self.moved + other.moved, self.layer_calls + other.layer_calls)

    def __mul__(self, times: float) -> "Work":
        """The same so many times."""
        return Work(self.flops * times, self.moved * times, self.layer_calls * times)

    def seconds(self, peaks: Peaks, efficiency: float) -> float:
        """How long it takes where `efficiency` is the share of the measured rates that real passes reach."""
        return (
            self.flops / (peaks.matmul_flops * efficiency)
            + self.moved / (peaks.bandwidth_bytes * efficiency)
            + self.layer_calls * LAYER_SECONDS
        )


def forward_flops(shape: ModelShape, tokens: float, *, context: float, layers: float, logits: float = 0) -> float:
    """Floating point operations of a forward pass, by the formula above.

    Args:
        shape: of the model.
        tokens: that are run.
        context: tokens that each attends to, on average.
        layers: that they go through; the upper ones of a model, say.
        logits: tokens that the head is computed for.
    """
    weights = 2 * shape.active_weights * layers / shape.layers
    return tokens * (weights + 4 * layers * context * shape.attention_width) + 2 * logits * shape.head_weights


def passing(
    shape: ModelShape,
    formats: Formats,
    *,
    tokens: float,
    context: float,
    passes: float,
    layers: float | None = None,
    logits: float = 0,
    backward: bool = False,
) -> Work:
    """So many tokens in so many passes; with `backward`, the way back to their states too.

    Args:
        shape: of the model.
        formats: of weights and states.
        tokens: in all passes together, without padding.
        context: tokens that each attends to, on average.
        passes: batches; each reads the weights.
        layers: that are run; all if absent.
        logits: tokens that the head is computed for, in all passes together.
        backward: with gradient.
    """
    layers = shape.layers if layers is None else layers
    weights = shape.dense_weights + shape.expert_weights * experts_read(shape, tokens / max(passes, 1))
    read = passes * weights * layers / shape.layers + (shape.head_weights * passes if logits else 0)
    there = Work(
        forward_flops(shape, tokens, context=context, layers=layers, logits=logits),
        read * formats.read + logits * shape.vocabulary * 4 * LOGIT_ROUNDS,
        passes * layers,
    )
    return there * 2 if backward else there


def generating(shape: ModelShape, formats: Formats, *, rows: float, steps: float, context: float) -> Work:
    """`rows` answers of `steps` tokens each, written side by side: every step reads all weights and all keys."""
    written = passing(shape, formats, tokens=rows * steps, context=context, passes=steps, logits=rows * steps)
    return written + Work(moved=steps * rows * context * key_bytes(shape, formats.state))


def experts_read(shape: ModelShape, tokens: float) -> float:
    """The share of the experts that so many tokens use between them, if each chooses at random."""
    if not shape.experts:
        return 0.0
    left: float = (1.0 - shape.active_experts / shape.experts) ** max(tokens, 1.0)
    return 1.0 - left


def key_bytes(shape: ModelShape, number: float, layers: float | None = None) -> float:
    """Bytes of one token's keys and values, `number` bytes each, in so many layers (all if absent)."""
    return 2 * shape.key_width * number * (shape.layers if layers is None else layers)
