"""That what was exported is the edit: its weights, and its logits on a few prompts beside those of the edit itself."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pkedit.edit.delta import Delta, LayerDelta, vectors
from pkedit.errors import ExportError
from pkedit.models.chat import ChatModel
from pkedit.models.family import MlpSite
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
# Rounding of a different order of sums, in units of the dtype's precision and of the largest logit: the most that a
# difference may be, and what it may be even beside a small effect.
ROUNDINGS, FEW_ROUNDINGS = 64, 4
# Of the edit's own effect: what differs by more might be no edit at all, or half of one.
SHARE_OF_EFFECT = 0.25

# Called with the prompts that are done, and all of them.
Step = Callable[[int, int], None]

REPORT = "please report this with the name of the model"
TOO_SMALL = "That is no more than rounding does in this precision: logits alone cannot tell such an edit from none."


@dataclass(frozen=True)
class LogitCheck:
    """`difference`: largest absolute difference of any logit to the edit's; `effect`: the edit's own to the base's."""

    prompts: int
    difference: float
    effect: float

    @property
    def telling(self) -> bool:
        """Whether these logits tell the edit from none."""
        return self.difference < SHARE_OF_EFFECT * self.effect

    @property
    def sentence(self) -> str:
        """For people."""
        if self.difference == 0:
            same = "all logits are those of the measured edit, bit for bit"
        else:
            same = f"logits differ from those of the measured edit by at most {self.difference:.2g}"
        found = f"Checked on {self.prompts} prompts: {same}; the edit itself changes them by up to {self.effect:.2g}."
        return found if self.telling else f"{found} {TOO_SMALL}"


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


def reference_logits(
    chat: ChatModel, delta: Delta, prompts: Sequence[Sequence[int]], step: Step | None = None
) -> Reference:
    """What the model computes without and with the edit as it was measured; the model is unchanged afterwards."""
    base = logits_of(chat.model, prompts, step)
    with delta.applied_to(chat):
        return Reference(base, logits_of(chat.model, prompts, step), torch.finfo(chat.dtype).eps)


def check_logits(
    model: Any, prompts: Sequence[Sequence[int]], reference: Reference, what: str, step: Step | None = None
) -> LogitCheck:
    """Compares an exported model's logits with the edit's.

    Raises:
        ExportError: they differ by more than rounding explains, or by much of what the edit changes.
    """
    found = logits_of(model, prompts, step)
    difference = _largest_difference(found, reference.edited)
    check = LogitCheck(len(prompts), difference, _largest_difference(reference.base, reference.edited))
    largest = max(float(logits.abs().max()) for logits in reference.edited)
    rounding = reference.precision * largest
    allowed = min(ROUNDINGS * rounding, max(SHARE_OF_EFFECT * check.effect, FEW_ROUNDINGS * rounding))
    # Written so that NaN fails.
    if not difference <= allowed:
        raise ExportError(
            f"the {what} is not the edit, and nothing was written: its logits differ by {difference:.1e} where the "
            f"edit changes them by {check.effect:.1e} and the largest is {largest:.1f}; {REPORT}"
        )
    return check


def is_edited(site: MlpSite, layer: LayerDelta, part: str) -> bool:
    """Whether the vectors that an edit changes are its originals with the change, rounded once: bit for bit."""
    now, original = vectors(site, part).detach()[layer.neurons], layer.original[part]
    if now.shape != original.shape or now.dtype != original.dtype:
        return False
    return torch.equal(now, (original.float() + layer.change[part]).to(original.dtype))


def check_weights(sites: Iterable[MlpSite], delta: Delta) -> None:
    """That a saved model's edited vectors are the edit's.

    Raises:
        ExportError: they are not.
    """
    places = {site.id: site for site in sites}
    for layer in delta.layers:
        for part in layer.change:
            if layer.site not in places or not is_edited(places[layer.site], layer, part):
                raise ExportError(
                    f"the full model is not the edit, and nothing was written: saved and loaded again, the weights of "
                    f"{layer.name}, {part}, are not base + delta; {REPORT}"
                )


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
                    f"{layer.name}, {part}; {REPORT}"
                )


@torch.no_grad()
def logits_of(model: Any, prompts: Sequence[Sequence[int]], step: Step | None = None) -> tuple[Tensor, ...]:
    """Logits [tokens, vocabulary] in float32, prompt by prompt."""
    device = model.get_input_embeddings().weight.device
    found = []
    for ids in prompts:
        output = model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False)
        found.append(output.logits[0].float().cpu())
        if step is not None:
            step(len(found), len(prompts))
    return tuple(found)


def _largest_difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(first, second, strict=True))
