"""Scores of tokens from their final states, a few tokens at a time: logits are a hundred times larger than states.

All logits of a batch at once cost hundreds of megabytes, and writing them to fresh memory takes longer than
computing them. Chunks use the same memory again and again.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Logits of so many tokens over 50,000 words take 25 MB, little enough for malloc to use the same memory again.
TOKENS = 128

Score = Callable[[Tensor, slice], Tensor]


def in_chunks(states: Tensor, score: Score, *, tokens: int = TOKENS) -> Tensor:
    """`score` of all tokens, computed chunk by chunk: [tokens] from final states [tokens, hidden].

    The gradient with respect to `states` is computed along with the scores, for a token's score depends on its own
    state alone; nothing else gets one.

    Args:
        states: final states, as `ChatModel.head` takes them.
        score: one number per token, [chunk], from the states of a chunk and its place among all; where no gradient
            is wanted it may be several, [chunk, numbers].
        tokens: in a chunk.
    """
    wanted = states if torch.is_grad_enabled() else states.detach()
    scores: Tensor = _InChunks.apply(wanted, score, tokens)  # type: ignore[no-untyped-call]
    return scores


class _InChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, score: Score, tokens: int) -> Tensor:
        places = [slice(start, start + tokens) for start in range(0, len(states), tokens)]
        wanted = ctx.needs_input_grad[0]
        scores: list[Tensor] = []
        gradients: list[Tensor] = []
        for place in places:
            with torch.set_grad_enabled(wanted):
                part = states[place].detach().requires_grad_(wanted)
                values = score(part, place)
                if wanted:
                    gradients += torch.autograd.grad(values.sum(), part)
            scores.append(values.detach())
        if wanted:
            ctx.save_for_backward(torch.cat(gradients) if gradients else torch.zeros_like(states))
        return torch.cat(scores) if scores else states.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.unsqueeze(-1), None, None
