"""One forward and one backward pass that records what every signal needs, in little more memory than a plain one.

For a scalar Q (the log-probability margin of the pairs, or the log-probability of harmless answers) it keeps,
per MLP: sums over tokens of a·∂Q/∂a and ∂Q/∂a (pathway and utility), the gradient of the write weights
through a sketch (weight tracking), the mean activation, and what the activations at the decision tokens are
(selectivity). a is the MLP's hidden activation. A routed expert has one for the tokens sent to it, and for them alone.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pkedit.models import budgets
from pkedit.models.batches import AnswerBatch, Dialogue, answer_scores, make_batch
from pkedit.models.chat import ChatModel, Progress
from pkedit.models.hooks import gradients_from, inputs_of, outputs_of
from pkedit.models.precision import gradient_scale
from pkedit.models.sequences import by_length

# Hidden widths up to this are kept whole, so that weight tracking is exact; wider ones are sketched.
EXACT_WIDTH = 128


@dataclass(frozen=True)
class LayerTrace:
    """What one MLP showed, in float32. I: its neurons.

    `product` Σ a·∂Q/∂a and `gradient` Σ ∂Q/∂a, per row of the dialogues that were summed: [rows, I].
    `mean` activation over all tokens that it saw, 0 where there were none: [I].
    `decision_mean` and `decision_variance` over dialogues of the mean activation over the last prompt token and the
    first answer tokens, 0 for those of them that were sent to other experts: [I].
    `sketch` S·∂Q/∂W_write, [s, I], where SᵀS = 1 in expectation (S is the identity for narrow models).
    """

    product: Tensor
    gradient: Tensor
    mean: Tensor
    decision_mean: Tensor
    decision_variance: Tensor
    sketch: Tensor


@dataclass(frozen=True)
class Trace:
    """The traces of all MLPs, as in `ChatModel.sites`, and log p of each dialogue's answer, [n].

    That is the weighted mean per token.
    """

    layers: tuple[LayerTrace, ...]
    log_likelihood: Tensor


def trace(
    chat: ChatModel,
    dialogues: Sequence[Dialogue],
    signs: Sequence[float],
    *,
    first_tokens: int,
    first_weight: float,
    tokens_per_batch: int,
    seed: int,
    rows: Sequence[int] | None = None,
    compared: Sequence[bool] | None = None,
    sketch_widths: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Trace:
    """Traces Q = Σ sign · log p(answer | prompt), log p being the weighted mean per answer token.

    The weights are not touched: gradients are taken with respect to activations only.

    Args:
        chat: the model.
        dialogues: prompts with answers.
        signs: of each dialogue in Q.
        first_tokens: answer tokens that weigh more, and are decision tokens.
        first_weight: how much more.
        tokens_per_batch: padded tokens in one pass.
        seed: of the sketch.
        rows: where each dialogue is added up in `product` and `gradient`; every one for itself if absent.
        compared: the dialogues whose decision tokens count; all if absent.
        sketch_widths: s of each MLP, EXACT_WIDTH if absent; 0 where no sketch is wanted.
        progress: called with dialogues done and in all.
    """
    rows = range(len(dialogues)) if rows is None else rows
    compared = [True] * len(dialogues) if compared is None else compared
    widths = [EXACT_WIDTH] * len(chat.sites) if sketch_widths is None else sketch_widths
    recorder = _Recorder(chat, max(rows) + 1, first_tokens, widths, seed)
    scores = torch.zeros(len(dialogues))
    groups = by_length([len(item) for item in dialogues], tokens=budgets.traced(tokens_per_batch, chat.device.type))
    done = 0
    with chat.frozen():
        for group in groups:
            batch = make_batch(
                [dialogues[index] for index in group],
                first_tokens=first_tokens,
                first_weight=first_weight,
                device=chat.device,
            )
            watched = _Watched(
                torch.tensor([rows[index] for index in group]),
                torch.tensor([compared[index] for index in group]),
                [len(dialogues[index]) for index in group],
            )
            with recorder.watching(watched, batch):
                per_dialogue = answer_scores(chat, batch)
                sign = torch.tensor([signs[index] for index in group], device=per_dialogue.device)
                ((per_dialogue * sign).sum() * gradient_scale(chat)).backward()  # type: ignore[no-untyped-call]
            scores[group] = per_dialogue.detach().cpu()
            done += len(group)
            if progress is not None:
                progress(done, len(dialogues))
    return Trace(recorder.layers(), scores)


def summed(one: Trace) -> Trace:
    """The same trace with all dialogues in one row."""
    return replace(
        one,
        layers=tuple(
            replace(layer, product=layer.product.sum(0, keepdim=True), gradient=layer.gradient.sum(0, keepdim=True))
            for layer in one.layers
        ),
    )


@dataclass(frozen=True)
class _Watched:
    """The dialogues of one batch: the row each is added to, whether it is compared, and its length in tokens."""

    rows: Tensor
    compared: Tensor
    lengths: list[int]


class _Recorder:
    """Accumulates the sums of `LayerTrace` over batches."""

    def __init__(self, chat: ChatModel, rows: int, first_tokens: int, widths: Sequence[int], seed: int) -> None:
        self._chat = chat
        self._first_tokens = first_tokens
        self._scale = gradient_scale(chat)
        self._tokens = [0] * len(chat.sites)
        self._compared = 0
        generator = torch.Generator().manual_seed(seed)
        self._signs: list[Tensor | None] = []
        drawn = torch.empty(0)
        layer = -1
        self._sums: list[dict[str, Tensor]] = []
        for site, wanted in zip(chat.sites, widths, strict=True):
            device = site.device
            width = min(site.hidden, wanted)
            exact = site.hidden <= wanted
            if site.layer > layer:
                # Drawn at full width whatever is kept, so that no layer's sketch depends on another's. The experts of
                # a layer share one, for there may be hundreds.
                drawn = torch.randint(0, 2, (EXACT_WIDTH, site.hidden), generator=generator).to(torch.int8)
                layer = site.layer
            self._signs.append(None if exact else (2 * drawn[:width] - 1).to(device))
            self._sums.append(
                {
                    "product": torch.zeros(rows, site.neurons, device=device),
                    "gradient": torch.zeros(rows, site.neurons, device=device),
                    "mean": torch.zeros(site.neurons, device=device),
                    # In float64: the variance is a difference of large sums.
                    "decision": torch.zeros(site.neurons, device=device, dtype=torch.float64),
                    "decision_square": torch.zeros(site.neurons, device=device, dtype=torch.float64),
                    "sketch": torch.zeros(width, site.neurons, device=device),
                }
            )

    @contextmanager
    def watching(self, watched: _Watched, batch: AnswerBatch) -> Generator[None]:
        """Records the forward and the backward pass made inside."""
        # Sent once: on a GPU, every tensor that comes from main memory holds up what follows.
        home = batch.ids.device
        real = (torch.arange(batch.ids.shape[1]).unsqueeze(0) < torch.tensor(watched.lengths).unsqueeze(1)).to(home)
        compared, where = watched.compared.nonzero().squeeze(1).to(home), watched.rows.to(home)
        decisive = batch.place <= self._first_tokens
        # Each decision token's share in the mean of its dialogue: [dialogues, answer tokens].
        shares = torch.zeros(len(batch), len(batch.place), device=batch.ids.device)
        shares[batch.row[decisive], decisive.nonzero().squeeze(1)] = 1.0
        shares = shares / shares.sum(1, keepdim=True)
        activations: dict[int, Callable[[], Tensor]] = {}
        tokens = batch.ids.shape[1]

        def on_activation(place: int, activation: Tensor) -> None:
            routed = self._chat.sites[place].routed_tokens
            # Some models pass the tokens of all dialogues in one row.
            kept = activation.detach()
            kept = kept.reshape(len(batch), tokens, -1) if routed is None else kept
            shape = kept.shape
            again = activations[place] = recallable(activation)
            sums, at = self._sums[place], kept.device
            here = real.to(at).flatten() if routed is None else real.to(at).flatten()[routed]
            self._tokens[place] += sum(watched.lengths) if routed is None else int(here.sum())
            with torch.autocast(at.type, enabled=False):
                sums["mean"] += here.float() @ kept.flatten(0, -2).float()
                if routed is None:
                    answers = kept[batch.row.to(at), batch.column.to(at)].float()
                    decision = shares.to(at) @ answers
                else:
                    decision = _shared_out(shares.to(at), batch, kept.float(), routed)
            decision = decision[compared.to(at)].double()
            sums["decision"] += decision.sum(0)
            sums["decision_square"] += decision.square().sum(0)

            def on_gradient(gradient: Tensor) -> None:
                # Padding comes last, so nothing depends on it, and its gradient is zero.
                gradient = gradient.float().view(shape) / self._scale
                product = gradient * again().view(shape).float()
                row = where.to(at)
                if routed is None:
                    sums["product"].index_add_(0, row, product.sum(1))
                    sums["gradient"].index_add_(0, row, gradient.sum(1))
                else:
                    sums["product"].index_add_(0, row[routed // tokens], product)
                    sums["gradient"].index_add_(0, row[routed // tokens], gradient)

            activation.register_hook(on_gradient)  # type: ignore[no-untyped-call]

        def on_output(place: int, output: Tensor) -> None:
            def on_gradient(gradient: Tensor) -> None:
                again, sketch = activations.pop(place), self._sums[place]["sketch"]
                if len(sketch):
                    narrowed = self._narrowed(place, gradient.float().flatten(0, -2) / self._scale)
                    sketch += narrowed @ again().float().flatten(0, -2)

            output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

        writes = [site.write for site in self._chat.sites]
        self._compared += int(watched.compared.sum())
        with (
            gradients_from(self._chat.sites[0].block),
            inputs_of(writes, on_activation),
            outputs_of(writes, on_output),
        ):
            yield

    def _narrowed(self, place: int, gradient: Tensor) -> Tensor:
        """S·gradientᵀ, [s, tokens] from [tokens, hidden]."""
        signs = self._signs[place]
        if signs is None:
            return gradient.T
        narrowed: Tensor = (signs.float() / len(signs) ** 0.5) @ gradient.T
        return narrowed

    def layers(self) -> tuple[LayerTrace, ...]:
        return tuple(self._layer(sums, tokens) for sums, tokens in zip(self._sums, self._tokens, strict=True))

    def _layer(self, sums: dict[str, Tensor], tokens: int) -> LayerTrace:
        mean = sums["decision"] / max(self._compared, 1)
        # Of a sample, as `Tensor.var` has it.
        variance = (sums["decision_square"] - self._compared * mean.square()) / max(self._compared - 1, 1)
        return LayerTrace(
            product=sums["product"],
            gradient=sums["gradient"],
            mean=sums["mean"] / max(tokens, 1),
            decision_mean=mean.float(),
            decision_variance=variance.clamp_min(0.0).float(),
            sketch=sums["sketch"],
        )


def recallable(activation: Tensor) -> Callable[[], Tensor]:
    """Gives the activation again during the backward pass, [.., I], if possible without holding it until then.

    Frozen write weights need no input for their gradient, so a plain pass lets go of the activation. Where it is a
    product, as behind a gate, the pass does hold the factors, bit for bit.
    """
    node: Any = activation.grad_fn
    if type(node).__name__ == "MulBackward0":
        first, second = node._saved_self, node._saved_other
        if first is not None and second is not None:
            factors = first.detach(), second.detach()
            return lambda: factors[0] * factors[1]
    held = activation.detach()
    return lambda: held


def _shared_out(shares: Tensor, batch: AnswerBatch, activations: Tensor, routed: Tensor) -> Tensor:
    """The decision tokens' mean activation of each dialogue, of an expert that saw some of them: [dialogues, I].

    Args:
        shares: of each answer token in the mean of its dialogue, [dialogues, answer tokens].
        batch: the dialogues.
        activations: [routed tokens, I].
        routed: the token of each row, row · tokens + column.
    """
    tokens = batch.ids.shape[1]
    share = activations.new_zeros(len(batch) * tokens)
    share[(batch.row * tokens + batch.column).to(share.device)] = shares.sum(0)
    weighted = activations * share[routed].unsqueeze(-1)
    return activations.new_zeros(len(batch), activations.shape[-1]).index_add_(0, routed // tokens, weighted)
