"""Greedy answers to token prompts, in batches that answer as their members would alone.

Chat templates open every prompt with the same tokens (a system message). Under causal attention these give every
prompt the same keys and values, so they are computed once and lent to all.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

# A shorter shared beginning costs more in bookkeeping than it saves.
WORTH_SHARING = 8


def shared_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; the last prompt token, which predicts the answer, never counts.

    0 where so little is shared, or by so few, that it is not worth it.
    """
    if len(prompts) < 2:
        return 0
    limit = min(map(len, prompts)) - 1
    first = prompts[0]
    shared = next((place for place in range(limit) if any(prompt[place] != first[place] for prompt in prompts)), limit)
    return shared if shared >= WORTH_SHARING else 0


def lent(cache: DynamicCache, rows: int, *, skipped: int = 0) -> DynamicCache:
    """The keys and values of one sequence for `rows` of them, without a copy; of the first `skipped` layers one row."""
    kept: list[Any] = cache.layers
    return DynamicCache(
        [
            (layer.keys, layer.values)
            if number < skipped
            else (layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
            for number, layer in enumerate(kept)
        ]
    )


class GreedyGenerator:
    """Answers prompts of one model. Make it for one set of prompts and while the model stays as it is."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], *, padding: int) -> None:
        self._model = model
        self._padding = padding
        self._beginning: DynamicCache | None = None
        shared = shared_beginning(prompts)
        if shared:
            self._beginning = DynamicCache()
            with torch.inference_mode():
                ids = torch.tensor([list(prompts[0][:shared])], device=self._device)
                model.base_model(input_ids=ids, past_key_values=self._beginning, use_cache=True)
        self._shared = shared

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Tensor:
        """The answer tokens, [prompts, up to max_new_tokens], filled with padding behind the end of an answer."""
        width = max(map(len, prompts))
        # What is shared stands first; the padding that makes lengths equal stands between it and the rest.
        ids = [
            [*prompt[: self._shared], *[self._padding] * (width - len(prompt)), *prompt[self._shared :]]
            for prompt in prompts
        ]
        mask = [
            [*[1] * self._shared, *[0] * (width - len(prompt)), *[1] * (len(prompt) - self._shared)]
            for prompt in prompts
        ]
        generated: Tensor = self._model.generate(
            input_ids=torch.tensor(ids, device=self._device),
            attention_mask=torch.tensor(mask, device=self._device),
            past_key_values=None if self._beginning is None else lent(self._beginning, len(prompts)),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            # A chat model's saved sampling defaults would only raise warnings under greedy decoding.
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self._padding,
        )
        return generated[:, width:]

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._model.get_input_embeddings().weight.device
        return device
