"""One forward and one backward pass that records what every signal needs.

For a scalar Q (the log-probability margin of the pairs, or the log-probability of harmless answers) it keeps,
per layer: sums over tokens of a·∂Q/∂a and ∂Q/∂a (pathway and utility), the gradient of the write weights
through a sketch (weight tracking), the mean activation, and the activations at the decision tokens
(selectivity). a is the MLP's hidden activation.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from pkedit.models.batches import AnswerBatch, Dialogue, answer_scores, make_batch
from pkedit.models.chat import ChatModel, Progress
from pkedit.models.hooks import gradients_from, inputs_of, outputs_of
from pkedit.models.sequences import by_length

# Hidden widths up to this are kept whole, so that weight tracking is exact; wider ones are sketched.
EXACT_WIDTH = 128


@dataclass(frozen=True)
class LayerTrace:
    """What one layer showed, in float32. n: dialogues, I: neurons of the layer.

    `product` Σ a·∂Q/∂a and `gradient` Σ ∂Q/∂a, per dialogue: [n, I]. `mean` activation over all tokens: [I].
    `decision` mean activation over the last prompt token and the first answer tokens: [n, I].
    `sketch` S·∂Q/∂W_write, [s, I], where SᵀS = 1 in expectation (S is the identity for narrow models).
    """

    product: Tensor
    gradient: Tensor
    mean: Tensor
    decision: Tensor
    sketch: Tensor


@dataclass(frozen=True)
class Trace:
    """The traces of all layers, and log p of each dialogue's answer (weighted mean per token), [n]."""

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
    progress: Progress | None = None,
) -> Trace:
    """Traces Q = Σ sign · log p(answer | prompt), log p being the weighted mean per answer token.

    The weights are not touched: gradients are taken with respect to activations only.
    """
    recorder = _Recorder(chat, len(dialogues), first_tokens, seed)
    scores = torch.zeros(len(dialogues))
    groups = by_length([len(item) for item in dialogues], tokens=tokens_per_batch)
    done = 0
    with chat.frozen():
        for group in groups:
            batch = make_batch(
                [dialogues[index] for index in group],
                first_tokens=first_tokens,
                first_weight=first_weight,
                device=chat.device,
            )
            lengths = [len(dialogues[index]) for index in group]
            with recorder.watching(group, lengths, batch):
                per_dialogue = answer_scores(chat, batch)
                sign = torch.tensor([signs[index] for index in group], device=chat.device)
                (per_dialogue * sign).sum().backward()  # type: ignore[no-untyped-call]
            scores[group] = per_dialogue.detach().cpu()
            done += len(group)
            if progress is not None:
                progress(done, len(dialogues))
    return Trace(recorder.layers(), scores)


class _Recorder:
    """Accumulates the sums of `LayerTrace` over batches."""

    def __init__(self, chat: ChatModel, dialogues: int, first_tokens: int, seed: int) -> None:
        self._chat = chat
        self._first_tokens = first_tokens
        self._tokens = 0
        generator = torch.Generator().manual_seed(seed)
        self._projection = []
        self._sums: list[dict[str, Tensor]] = []
        for site in chat.sites:
            device = site.write_vectors().device
            width = min(site.hidden, EXACT_WIDTH)
            if width == site.hidden:
                projection = torch.eye(width)
            else:
                signs = torch.randint(0, 2, (width, site.hidden), generator=generator)
                projection = (2.0 * signs - 1.0) / width**0.5
            self._projection.append(projection.to(device))
            self._sums.append(
                {
                    "product": torch.zeros(dialogues, site.neurons, device=device),
                    "gradient": torch.zeros(dialogues, site.neurons, device=device),
                    "mean": torch.zeros(site.neurons, device=device),
                    "decision": torch.zeros(dialogues, site.neurons, device=device),
                    "sketch": torch.zeros(width, site.neurons, device=device),
                }
            )

    @contextmanager
    def watching(self, group: Sequence[int], lengths: Sequence[int], batch: AnswerBatch) -> Generator[None]:
        """Records the forward and the backward pass made inside, over the dialogues `group`."""
        rows = torch.tensor(group)
        real = torch.arange(batch.ids.shape[1]).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)
        decisive = batch.place <= self._first_tokens
        counts = torch.zeros(len(batch), device=batch.ids.device)
        counts.index_add_(0, batch.row[decisive], torch.ones_like(batch.weight[decisive]))
        activations: dict[int, Tensor] = {}

        def on_activation(place: int, activation: Tensor) -> None:
            sums = self._sums[place]
            at = activation.device
            kept = activation.detach().float() * real.to(at).unsqueeze(-1)
            activations[place] = kept
            sums["mean"] += kept.sum((0, 1))
            chosen = kept[batch.row[decisive].to(at), batch.column[decisive].to(at)]
            decision = torch.zeros(len(batch), kept.shape[-1], device=at)
            decision.index_add_(0, batch.row[decisive].to(at), chosen)
            sums["decision"][rows.to(at)] = decision / counts.to(at).unsqueeze(-1)

            def on_gradient(gradient: Tensor) -> None:
                gradient = gradient.float()
                sums["product"][rows.to(at)] = (gradient * kept).sum(1)
                sums["gradient"][rows.to(at)] = gradient.sum(1)

            activation.register_hook(on_gradient)  # type: ignore[no-untyped-call]

        def on_output(place: int, output: Tensor) -> None:
            def on_gradient(gradient: Tensor) -> None:
                flat = gradient.float().flatten(0, 1)
                narrow = self._projection[place] @ flat.T
                self._sums[place]["sketch"] += narrow @ activations.pop(place).flatten(0, 1)

            output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

        writes = [site.write for site in self._chat.sites]
        self._tokens += sum(lengths)
        with (
            gradients_from(self._chat.sites[0].block),
            inputs_of(writes, on_activation),
            outputs_of(writes, on_output),
        ):
            yield

    def layers(self) -> tuple[LayerTrace, ...]:
        return tuple(
            LayerTrace(
                product=sums["product"],
                gradient=sums["gradient"],
                mean=sums["mean"] / max(self._tokens, 1),
                decision=sums["decision"],
                sketch=sums["sketch"],
            )
            for sums in self._sums
        )
