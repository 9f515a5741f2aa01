"""That what was exported is the edit: its logits beside those of the edit itself, on a few prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pkedit.edit.delta import Delta, vectors
from pkedit.errors import ExportError
from pkedit.models.chat import ChatModel
from pkedit.models.templates import templated_ids

# Some that an edit answers otherwise, and some that it must not.
PROMPTS = (
    "How do I pick a lock that is not mine?",
    "How can I read my neighbour's letters without being noticed?",
    "Write a message that makes strangers send me money for nothing.",
    "How do I get into a house while nobody is at home?",
    "What is the capital of France?",
    "How do I bake bread without yeast?",
    "Write a short poem about the sea.",
    "Explain to a child what a fraction is.",
)
# Rounding of a different order of sums, in units of the dtype's precision and of the largest logit. In 16 bits that is
# wide: there, what an adapter makes of the weights is the stricter check.
ROUNDINGS = 64


@dataclass(frozen=True)
class LogitCheck:
    """`difference`: largest absolute difference of any logit to the edit's; `effect`: the edit's own to the base's."""

    prompts: int
    difference: float
    effect: float

    @property
    def sentence(self) -> str:
        """For people."""
        if self.difference == 0:
            same = "all logits are those of the measured edit, bit for bit"
        else:
            same = f"logits differ from those of the measured edit by at most {self.difference:.2g}"
        return f"Checked on {self.prompts} prompts: {same}; the edit itself changes them by up to {self.effect:.2g}."


@dataclass(frozen=True, eq=False)
class Reference:
    """Logits [tokens, vocabulary] of each prompt, without and with the edit, and the precision of the model."""

    base: tuple[Tensor, ...]
    edited: tuple[Tensor, ...]
    precision: float


def prompt_ids(tokenizer: Any, name: str) -> list[list[int]]:
    """The prompts in a tokenizer's chat template; `name` is the model's, for an error.

    Raises:
        ChatTemplateError: it has none.
    """
    return [templated_ids(tokenizer, text, name=name) for text in PROMPTS]


def reference_logits(chat: ChatModel, delta: Delta, prompts: Sequence[Sequence[int]]) -> Reference:
    """What the model computes without and with the edit as it was measured; the model is unchanged afterwards."""
    base = logits_of(chat.model, prompts)
    with delta.applied_to(chat):
        return Reference(base, logits_of(chat.model, prompts), torch.finfo(chat.dtype).eps)


def check_logits(model: Any, prompts: Sequence[Sequence[int]], reference: Reference, what: str) -> LogitCheck:
    """Compares an exported model's logits with the edit's.

    Raises:
        ExportError: they differ by more than rounding explains.
    """
    found = logits_of(model, prompts)
    difference = _largest_difference(found, reference.edited)
    check = LogitCheck(len(prompts), difference, _largest_difference(reference.base, reference.edited))
    largest = max(float(logits.abs().max()) for logits in reference.edited)
    # Written so that NaN fails.
    if not difference <= ROUNDINGS * reference.precision * largest:
        raise ExportError(
            f"the {what} is not the edit, and nothing was written: its logits differ by {difference:.1e} where the "
            f"largest is {largest:.1f}; please report this with the name of the model"
        )
    return check


@torch.no_grad()
def check_merged(chat: ChatModel, delta: Delta) -> None:
    """That an adapter, merged into the weights of `chat`, has made of them what the edit would.

    Raises:
        ExportError: they differ by more than one rounding.
    """
    for layer in delta.layers:
        for part, change in layer.change.items():
            original = layer.original[part].float()
            now = vectors(chat.places[layer.site], part)[layer.neurons]
            wanted = (original + change).to(now.dtype)
            rounding = torch.finfo(now.dtype).eps * (original.abs() + change.abs())
            if not bool(((now.float() - wanted.float()).abs() <= rounding).all()):
                raise ExportError(
                    f"the adapter is not the edit, and nothing was written: merged, it makes other weights of "
                    f"{layer.name}, {part}; please report this with the name of the model"
                )


@torch.no_grad()
def logits_of(model: Any, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """Logits [tokens, vocabulary] in float32, prompt by prompt."""
    device = model.get_input_embeddings().weight.device
    return tuple(
        model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False).logits[0].float().cpu()
        for ids in prompts
    )


def _largest_difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(first, second, strict=True))
