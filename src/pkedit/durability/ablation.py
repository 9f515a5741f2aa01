"""Directional ablation: the direction by which a model refuses, taken out of everything that it computes.

Arditi et al. 2024, "Refusal in language models is mediated by a single direction", arXiv 2406.11717.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkedit.durability.subject import Asked, NotMeasuredError, Subject
from pkedit.locate.dinm import block_outputs
from pkedit.models.batches import divergence
from pkedit.models.chat import ChatModel
from pkedit.models.hooks import added_outputs
from pkedit.models.mixers import find_mixers
from pkedit.models.precision import arithmetic
from pkedit.prompts import Prompt, builtin_refusals

# Layers whose direction may be taken, as shares of the depth: the paper leaves out the upper fifth.
LAYERS = (0.2, 0.8)
# Most KL on harmless prompts, in nats, as in the paper's appendix C.
MOST_KL = 0.1
# Of what a state is long, what may be left of the direction by rounding.
LEFT = 1e-3


@dataclass(frozen=True)
class Direction:
    """A unit vector [hidden] of the residual stream, the layer that it was found behind, and how it was judged.

    `refusal`: log-odds of a refusal's first word on harmful prompts without it; `kl`: on harmless ones, in nats.
    """

    vector: Tensor
    layer: int
    refusal: float
    kl: float


@contextmanager
def ablated(subject: Subject) -> Generator[Asked]:
    """The edited model's own refusal direction, out of every write to the residual stream (arXiv 2406.11717).

    The direction is the difference of mean states at the last prompt token between harmful and harmless prompts of the
    edit split, behind the layer where taking it out makes refusals least likely on the select split.
    """
    chat, settings, splits = subject.chat, subject.settings, subject.ground.splits
    writers = residual_writers(chat)
    with subject.edited():
        with arithmetic(chat, settings.precision, cast_once=True):
            direction = refusal_direction(
                chat,
                writers,
                _texts(splits.edit.harmful, settings.ablation_prompts),
                _texts(splits.edit.harmless, settings.ablation_prompts),
                _texts(splits.select.harmful, settings.ablation_checks),
                _texts(splits.select.harmless, settings.ablation_checks),
            )
        with without(writers, direction.vector):
            check_gone(chat, direction.vector)
            above = "" if direction.kl <= MOST_KL else f", more than {MOST_KL:g} whichever the layer"
            yield Asked(
                chat, note=f"direction behind layer {direction.layer}, harmless KL {direction.kl:.3f} nats{above}"
            )


def residual_writers(chat: ChatModel) -> list[nn.Module]:
    """The modules whose outputs are added up in the residual stream: embeddings, attention and MLPs.

    Raises:
        NotMeasuredError: where attention writes is not clear.
    """
    mixers = find_mixers(chat)
    if mixers is None:
        raise NotMeasuredError("where the model's attention writes is not clear")
    width = chat.sites[0].hidden
    embeddings = [
        module for module in chat.body.modules() if isinstance(module, nn.Embedding) and module.embedding_dim == width
    ]
    return [*embeddings, *(mixer.write for mixer in mixers), *(site.write for site in chat.sites)]


@contextmanager
def without(writers: Sequence[nn.Module], direction: Tensor) -> Generator[None]:
    """x − r rᵀx for every output x of the writers, r being the unit vector `direction` [hidden]; no weight is touched.

    With weights W that is W − r rᵀW: the paper's section 4.1 shows that both are the same.
    """

    def project(_: int, __: Tensor, output: Tensor) -> Tensor:
        vector = direction.to(output.device)
        exact = output.float()
        return (exact - (exact @ vector).unsqueeze(-1) * vector).to(output.dtype)

    with added_outputs(writers, project):
        yield


@torch.no_grad()
def check_gone(chat: ChatModel, direction: Tensor) -> None:
    """That no layer leaves anything of the direction in the residual stream.

    Raises:
        NotMeasuredError: one does: it norms what it writes, say.
    """
    ids = torch.tensor([chat.prompt_ids("How are you?")], device=chat.device)
    states = block_outputs(chat, ids)[:, 0]
    left = ((states @ direction).abs() / states.norm(dim=-1)).amax(dim=-1)
    rounding = LEFT if chat.dtype == torch.float32 else 30 * LEFT
    if float(left.max()) > rounding:
        layer = int((left > rounding).nonzero()[0])
        raise NotMeasuredError(f"layer {layer} writes the direction back: it changes what its parts have written")


@torch.no_grad()
def refusal_direction(
    chat: ChatModel,
    writers: Sequence[nn.Module],
    harmful: Sequence[str],
    harmless: Sequence[str],
    check_harmful: Sequence[str],
    check_harmless: Sequence[str],
) -> Direction:
    """The direction without which refusals are least likely, of all layers that leave harmless prompts alone.

    Of layers that all change harmless prompts by more than MOST_KL, the one that changes them least.

    Args:
        chat: the model as it is attacked.
        writers: `residual_writers` of it.
        harmful: prompts for the means.
        harmless: the same.
        check_harmful: prompts for the choice of the layer.
        check_harmless: the same.
    """
    layers = range(round(LAYERS[0] * chat.layers), max(1, round(LAYERS[1] * chat.layers)))
    difference = _mean_states(chat, harmful, layers) - _mean_states(chat, harmless, layers)
    checks = [*check_harmful, *check_harmless]
    refusing = sorted({chat.answer_ids(text, limit=1, ended=False)[0] for text in builtin_refusals()})
    before = _last_logits(chat, checks)
    candidates = []
    for layer, row in zip(layers, difference, strict=True):
        if float(row.norm()) == 0:
            continue
        vector = row / row.norm()
        with without(writers, vector):
            after = _last_logits(chat, checks)
        odds = after[: len(check_harmful)].log_softmax(-1)[:, refusing].logsumexp(-1).exp()
        refusal = float(torch.logit(odds, eps=1e-6).mean())
        kl = float(divergence(before[len(check_harmful) :], after[len(check_harmful) :]).mean())
        candidates.append(Direction(vector, layer, refusal, kl))
    if not candidates:
        raise NotMeasuredError("harmful and harmless prompts leave the same states behind, so there is no direction")
    gentle = [one for one in candidates if one.kl <= MOST_KL]
    return min(gentle, key=lambda one: one.refusal) if gentle else min(candidates, key=lambda one: one.kl)


def _texts(prompts: Sequence[Prompt], count: int) -> list[str]:
    return [prompt.text for prompt in prompts[:count]]


def _mean_states(chat: ChatModel, texts: Sequence[str], layers: Sequence[int]) -> Tensor:
    """The mean state at the last prompt token behind each of these layers: [layers, hidden], float32."""
    ids, last = _padded(chat, texts)
    states = block_outputs(chat, ids)[:, torch.arange(len(texts)), last]
    return states[list(layers)].mean(dim=1)


def _last_logits(chat: ChatModel, texts: Sequence[str]) -> Tensor:
    """Logits behind each prompt: [prompts, vocabulary], float32."""
    ids, last = _padded(chat, texts)
    states = chat.body(input_ids=ids, use_cache=False).last_hidden_state
    at = last.to(states.device)
    return chat.head(states[torch.arange(len(texts), device=states.device), at])


def _padded(chat: ChatModel, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Prompts padded on the right, where causal attention does not see it, and the place of each one's last token."""
    prompts = [chat.prompt_ids(text) for text in texts]
    width = max(map(len, prompts))
    ids = torch.tensor([[*own, *[0] * (width - len(own))] for own in prompts], device=chat.device)
    return ids, torch.tensor([len(own) - 1 for own in prompts])
