"""Locating beside one plain forward and backward pass over the same batches: what the signals cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from pkedit.bench.figures import Ratio, StageFigures, make_row
from pkedit.bench.measuring import alternately, time_ratios
from pkedit.bench.peak import live_peak
from pkedit.bench.training import trainable
from pkedit.bench.workbench import Workbench
from pkedit.locate.locating import Located, locate
from pkedit.models import budgets
from pkedit.models.batches import Dialogue, answer_scores, make_batch
from pkedit.models.chat import ChatModel
from pkedit.models.costs import forward_flops
from pkedit.models.hooks import gradients_from
from pkedit.models.precision import arithmetic
from pkedit.models.sequences import by_length
from pkedit.models.shape import ModelShape
from pkedit.settings import LocateSettings

MOST_TIME = 1.3
# Of the weights of the largest decoder layer.
MOST_MEMORY = 1.5


@dataclass(frozen=True)
class Floor:
    """The dialogues that locating traces, in the batches that it makes of them."""

    chat: ChatModel
    settings: LocateSettings
    batches: tuple[tuple[Dialogue, ...], ...]

    def plain(self) -> None:
        """Gradients with respect to states alone: the least that anything with a backward pass costs."""
        precision = arithmetic(self.chat, self.settings.precision, cast_once=True)
        with self.chat.frozen(), precision, gradients_from(self.chat.blocks[0]):
            self._pass()

    def with_weights(self) -> None:
        """Gradients with respect to all weights too, as training has them; of the head's, which is run in chunks, none
        but those of its input."""
        weights: list[nn.Parameter] = list(self.chat.model.parameters())
        with trainable(self.chat, weights, self.settings.precision):
            self._pass()

    def _pass(self) -> None:
        for dialogues in self.batches:
            batch = make_batch(
                dialogues,
                first_tokens=self.settings.first_tokens,
                first_weight=self.settings.first_weight,
                device=self.chat.device,
            )
            answer_scores(self.chat, batch).sum().backward()  # type: ignore[no-untyped-call]


def locate_stage(bench: Workbench) -> StageFigures:
    """Time, memory and share of the peak of locating and of both floors."""
    pairs, kept = bench.sizes.located
    settings = LocateSettings(pairs=pairs, demonstrations=kept)
    material = bench.material.first(pairs, kept)

    def located() -> None:
        locate(bench.chat, material.pairs, material.demonstrations, settings)

    # Once before anything is timed: kernels are made, and the weights read from the disk.
    found = locate(bench.chat, material.pairs, material.demonstrations, settings)
    floor = floor_of(bench.chat, found, settings)
    names = ("locate", "plain pass", "pass with weight gradients")
    works = dict(zip(names, (located, floor.plain, floor.with_weights), strict=True))
    runs = alternately(works, bench.repeats, bench.device, bench.step)
    dialogues = [one for batch in floor.batches for one in batch]
    flops = pass_flops(bench.shape, dialogues)
    tokens = sum(map(len, dialogues))
    # A third product for each of the two of a plain pass: state and gradient give the weights'.
    of_weights = 2.0 * tokens * bench.shape.active_weights
    needed = dict(zip(names, (flops, flops, flops + of_weights), strict=True))
    # Of tensors alone, which is exact: resident memory varies by more than the whole difference.
    beside = live_peak(located, bench.device) - live_peak(floor.plain, bench.device)
    return StageFigures(
        "locate",
        rows=tuple(
            make_row(
                name,
                runs[name],
                tokens=tokens,
                weight_bytes=bench.weight_bytes,
                flops=needed[name],
                peak_flops=bench.mixed_peaks.matmul_flops,
            )
            for name in names
        ),
        ratios=(
            Ratio("locate: time ÷ plain pass", time_ratios(runs["locate"], runs["plain pass"]), MOST_TIME),
            Ratio("locate: time ÷ pass with weight gradients", time_ratios(runs["locate"], runs[names[2]])),
            Ratio(
                "locate: tensors beside the plain pass ÷ largest layer's weights",
                (beside / bench.largest_layer_bytes,),
                MOST_MEMORY,
            ),
        ),
        notes=(
            f"Located with {len(material.pairs)} pairs and {len(material.demonstrations)} harmless answers: "
            f"{len(dialogues)} dialogues, {tokens} tokens in {len(floor.batches)} batches; it holds at most "
            f"{beside / 2**20:.0f} MiB of tensors more than the plain pass.",
        ),
    )


def floor_of(chat: ChatModel, located: Located, settings: LocateSettings) -> Floor:
    """The same dialogues, grouped as locating groups them."""

    def batches(dialogues: Sequence[Dialogue]) -> list[tuple[Dialogue, ...]]:
        budget = budgets.traced(settings.tokens_per_batch, chat.device.type)
        groups = by_length([len(one) for one in dialogues], tokens=budget)
        return [tuple(dialogues[index] for index in group) for group in groups]

    return Floor(chat, settings, (*batches(located.harmless), *batches(located.margin)))


def pass_flops(shape: ModelShape, dialogues: Sequence[Dialogue]) -> float:
    """Floating point operations of a forward pass and of the way back to the states, without padding."""
    tokens = sum(map(len, dialogues))
    context = sum(len(one) ** 2 for one in dialogues) / tokens / 2
    logits = sum(len(one.answer) for one in dialogues)
    return 2 * forward_flops(shape, tokens, context=context, layers=shape.layers, logits=logits)
