"""A loaded chat model: prompts through its template, batched greedy generation, frozen weights."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pkedit.errors import OutOfMemoryError
from pkedit.models import budgets
from pkedit.models.families import Family
from pkedit.models.family import MlpSite, SiteId, blocks_of
from pkedit.models.generation import GreedyGenerator
from pkedit.models.head import logits_from
from pkedit.models.read_prompts import ReadPrompts
from pkedit.models.structure import body_of
from pkedit.models.templates import dialogue_ids, templated_ids
from pkedit.models.unchanged import UnchangedLayers
from pkedit.prompts.types import Conversation

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class ChatModel:
    """A causal language model with its tokenizer and its MLPs.

    `name` is what the user asked for; `reason` says how device and dtype were chosen. `sites` are all MLPs, layers
    ascending: one for each layer, and in a mixture of experts one more for each routed expert. `cannot_reuse` says
    why the keys and values of one pass cannot serve another, and `cannot_skip` why upper layers cannot run without
    the lower ones; None if they can (`reuse.py`).
    """

    name: str
    model: Any
    tokenizer: Any
    sites: tuple[MlpSite, ...]
    family: Family
    reason: str
    cannot_reuse: str | None = None
    cannot_skip: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return self.model.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.model.get_input_embeddings().weight.dtype  # type: ignore[no-any-return]

    @property
    def neurons(self) -> int:
        """MLP neurons of the whole model."""
        return sum(site.neurons for site in self.sites)

    @property
    def blocks(self) -> list[nn.Module]:
        """The decoder layers."""
        return blocks_of(self.model, self.family)

    @property
    def layers(self) -> int:
        """How many decoder layers there are."""
        return len(self.blocks)

    @property
    def body(self) -> Any:
        """The model without its head: what gives the final hidden states."""
        return body_of(self.model)

    @property
    def sizes(self) -> dict[SiteId, int]:
        """How many neurons each MLP has."""
        return {site.id: site.neurons for site in self.sites}

    @cached_property
    def places(self) -> dict[SiteId, MlpSite]:
        """Each MLP by its layer and expert."""
        return {site.id: site for site in self.sites}

    def sites_of(self, layer: int) -> tuple[MlpSite, ...]:
        """The MLPs of one decoder layer."""
        return tuple(site for site in self.sites if site.layer == layer)

    def first_layer_to_run(self, lowest: int) -> int:
        """Where a pass may begin when nothing below layer `lowest` has changed since the last one."""
        return 0 if self.cannot_skip else lowest

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] in float32 from final hidden states after the last norm [..., hidden]."""
        return logits_from(self.model, hidden)

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The last norm, between the decoder layers and `head`; nothing where the model has none."""
        norm = None if self.family.norm is None else getattr(self.body, self.family.norm, None)
        normed: Tensor = hidden if norm is None else norm(hidden)
        return normed

    def prompt_ids(self, said: Conversation) -> list[int]:
        """Token ids of a conversation in the chat template, up to where the answer begins; one BOS at most.

        Raises:
            ChatTemplateError: the tokenizer has no chat template, or one that cannot be used.
        """
        if isinstance(said, str):
            return templated_ids(self.tokenizer, said, name=self.name)
        return dialogue_ids(self.tokenizer, said, name=self.name)

    def answer_ids(self, text: str, *, limit: int | None = None, ended: bool = True) -> list[int]:
        """Token ids of an answer; with the end-of-turn token where `ended` and it fits into `limit`."""
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if ended:
            ids.append(self.tokenizer.eos_token_id)
        return ids[:limit]

    def generate(
        self,
        texts: Sequence[Conversation],
        *,
        max_new_tokens: int,
        batch_size: int = 64,
        unchanged: UnchangedLayers | None = None,
        read: ReadPrompts | None = None,
        progress: Progress | None = None,
    ) -> list[str]:
        """Greedy answers to user messages or conversations, in their order; at most `max_new_tokens` tokens each.

        Sorted by length, so that batches hold little padding; those of long prompts are smaller (`budgets.py`). The
        batch is halved when memory runs out. With `unchanged`, layers that have read the same prompts before do not run
        again; `read` receives the prompts' keys and values. `progress` is called with answers done and in all, those of
        a batch under way by the share of it that is done.

        Raises:
            OutOfMemoryError: a single prompt does not fit.
        """
        prompts = [self.prompt_ids(text) for text in texts]
        generator = GreedyGenerator(
            self.model,
            prompts,
            padding=self.tokenizer.pad_token_id,
            unchanged=None if self.cannot_skip else unchanged,
            reuse=self.cannot_reuse is None,
            read=read,
        )
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        answers: dict[int, str] = {}
        while order:
            batch = order[: self.answered_together(len(prompts[order[0]]), max_new_tokens, batch_size)]

            def advance(share: float, before: int = len(answers), size: int = len(batch)) -> None:
                if progress is not None:
                    progress(before + int(share * size), len(texts))

            try:
                generated = generator.answer([prompts[index] for index in batch], max_new_tokens, advance)
            except (torch.OutOfMemoryError, MemoryError):
                if len(batch) == 1:
                    raise OutOfMemoryError(
                        f"not enough memory to answer one prompt of {len(prompts[batch[0]])} tokens; try --dtype "
                        "bfloat16, "
                        "--load-in 8bit or a smaller model"
                    ) from None
                batch_size = len(batch) // 2
                continue
            texts_of_batch = self.tokenizer.batch_decode(generated, skip_special_tokens=True)
            answers.update(zip(batch, (text.strip() for text in texts_of_batch), strict=True))
            order = order[len(batch) :]
            if progress is not None:
                progress(len(answers), len(texts))
        return [answers[index] for index in range(len(texts))]

    def answered_together(self, longest: int, max_new_tokens: int, batch_size: int) -> int:
        """How many prompts of at most `longest` tokens are answered in one batch: `batch_size`, or fewer long ones."""
        return max(1, min(batch_size, budgets.written(self.device.type) // (longest + max_new_tokens)))

    @contextmanager
    def frozen(self) -> Generator[None]:
        """Weights without gradient and evaluation mode inside; both as they were afterwards."""
        parameters = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        # Module by module: a model may train in parts only.
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        for parameter, _ in parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, wanted in parameters:
                parameter.requires_grad_(wanted)
            for module, training in modes:
                module.training = training
