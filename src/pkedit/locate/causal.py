"""Causal check: what happens to the preference for unsafe answers when a region is held at its harmless mean.

A region no better than random ones with the same number of neurons per MLP is said to be so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pkedit.locate.region import Region, random_region
from pkedit.models.batches import Dialogue, state_likelihoods
from pkedit.models.chat import ChatModel, Progress
from pkedit.models.hooks import replaced_activations
from pkedit.models.prefix import PrefixCache
from pkedit.models.sequences import by_length


@dataclass(frozen=True)
class CausalCheck:
    """Effects of mean-ablation, in nats per weighted answer token.

    `effect`: fall of M = log p(y⁻|x) − log p(y⁺|x); `harmless_effect`: fall of log p of harmless answers. `random` and
    `random_harmless` are the same for random regions; `beyond_all` says whether `effect` exceeds every one.
    """

    effect: float
    harmless_effect: float
    random: tuple[float, ...]
    random_harmless: tuple[float, ...]

    @property
    def beyond_all(self) -> bool:
        """Whether no random region lowers M as much."""
        return self.effect > max(self.random)


def causal_check(
    chat: ChatModel,
    region: Region,
    means: Sequence[Tensor],
    margin: Sequence[Dialogue],
    harmless: Sequence[Dialogue],
    *,
    random_regions: int,
    first_tokens: int,
    first_weight: float,
    tokens_per_batch: int,
    seed: int,
    progress: Progress | None = None,
) -> CausalCheck:
    """Mean-ablates `region` and `random_regions` random ones.

    Args:
        chat: the model.
        region: the located region.
        means: ā, mean activation on harmless prompts, per MLP [I].
        margin: unsafe and safe dialogue of each pair, alternating.
        harmless: dialogues with the model's own good answers.
        random_regions: how many random regions are compared.
        first_tokens: answer tokens that weigh more.
        first_weight: how much more.
        tokens_per_batch: padded tokens in one pass.
        seed: of the random regions.
        progress: called with regions done and in all.
    """
    dialogues = [*margin, *harmless]
    cache = PrefixCache(
        chat,
        dialogues,
        region.lowest_layer,
        first_tokens=first_tokens,
        first_weight=first_weight,
        tokens_per_batch=tokens_per_batch,
    )
    groups = by_length([len(item) for item in dialogues], tokens=tokens_per_batch)
    average = dict(zip(chat.places, means, strict=True))
    candidates = [random_region(region, chat.sizes, seed=seed + 1 + number) for number in range(random_regions)]

    def scores(ablated: Region | None) -> tuple[float, float]:
        held = [
            (chat.places[at].write, torch.tensor(indices, device=average[at].device), average[at][indices])
            for at, indices in (ablated.by_site() if ablated else {}).items()
        ]
        values = torch.zeros(len(dialogues))
        with replaced_activations(held):
            for group in groups:
                batch = cache.batch(group)
                states = batch.at_answers(cache.final_states(group, batch))
                values[group] = batch.per_dialogue(state_likelihoods(chat, states, batch.target)).cpu()
        unsafe, safe = values[: len(margin)][0::2], values[: len(margin)][1::2]
        return float((unsafe - safe).mean()), float(values[len(margin) :].mean())

    with chat.frozen(), torch.no_grad():
        for group in groups:
            cache.prepare(group)
        before, before_harmless = scores(None)
        after = []
        for number, candidate in enumerate((region, *candidates)):
            after.append(scores(candidate))
            if progress is not None:
                progress(number + 1, len(candidates) + 1)
    return CausalCheck(
        effect=before - after[0][0],
        harmless_effect=before_harmless - after[0][1],
        random=tuple(before - margin_after for margin_after, _ in after[1:]),
        random_harmless=tuple(before_harmless - harmless_after for _, harmless_after in after[1:]),
    )
