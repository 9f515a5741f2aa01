"""Conditions after benign fine-tuning: what a user does who has never heard of the edit."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from pkedit.durability.record import DurabilitySettings
from pkedit.durability.subject import Asked, Subject
from pkedit.errors import NonFiniteLossError
from pkedit.models.batches import Dialogue, answer_scores, dialogue, make_batch
from pkedit.models.chat import ChatModel, Progress
from pkedit.models.precision import arithmetic
from pkedit.prompts import Demonstration


@contextmanager
def _tuned(subject: Subject, *, steps: int) -> Generator[Asked]:
    """So many steps of LoRA (Hu et al. 2021, arXiv 2106.09685) on harmless prompts with the unedited model's own
    answers: tuning that means no harm, which is known to undo refusals (Qi et al. 2023, arXiv 2310.03693).

    Answers of the model's own are its mildest lesson; data of another hand moves weights further.
    """
    ground = subject.ground
    lessons = ground.lessons
    with subject.edited(), tuned_by_lora(subject.chat, lessons, steps, ground.settings, ground.observer.step) as losses:
        # Over each lesson about once: single steps differ by what is in them.
        window = -(-len(lessons) // ground.settings.tuning_batch)
        first, last = (sum(part) / len(part) for part in (losses[:window], losses[-window:]))
        yield Asked(subject.chat, note=f"loss {first:.2f} → {last:.2f} nats a token")


tuned = {steps: partial(_tuned, steps=steps) for steps in (50, 200, 1000)}


@contextmanager
def tuned_by_lora(
    chat: ChatModel,
    lessons: Sequence[Demonstration],
    steps: int,
    settings: DurabilitySettings,
    progress: Progress | None = None,
) -> Generator[list[float]]:
    """The model with an adapter on all its linear layers, trained; yields the loss of every step.

    The base weights are never written to, and the adapter is taken out again.

    Raises:
        NonFiniteLossError: a loss became NaN or Inf.
    """
    dialogues = [
        dialogue(chat, one.prompt.conversation, one.answer, limit=settings.max_new_tokens, ended=False)
        for one in lessons
    ]
    config = LoraConfig(
        r=settings.tuning_rank,
        lora_alpha=2 * settings.tuning_rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in chat.model.modules()),
    )
    with chat.frozen():
        tuner: Any = None
        try:
            with arithmetic(chat, settings.precision, cast_once=True):
                with torch.random.fork_rng():
                    torch.manual_seed(settings.seed)
                    tuner = get_peft_model(chat.model, config)
                losses = _train(chat, dialogues, steps, settings, progress)
            yield losses
        finally:
            if tuner is not None:
                tuner.unload()


def _train(
    chat: ChatModel, dialogues: Sequence[Dialogue], steps: int, settings: DurabilitySettings, progress: Progress | None
) -> list[float]:
    parameters: list[nn.Parameter] = [one for one in chat.model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.tuning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(settings.seed)
    order: list[int] = []
    losses = []
    for step in range(steps):
        while len(order) < settings.tuning_batch:
            order += torch.randperm(len(dialogues), generator=generator).tolist()
        chosen, order = order[: settings.tuning_batch], order[settings.tuning_batch :]
        batch = make_batch([dialogues[index] for index in chosen], first_tokens=0, first_weight=1.0, device=chat.device)
        optimizer.zero_grad()
        loss = -answer_scores(chat, batch).mean()
        if not torch.isfinite(loss):
            raise NonFiniteLossError(step, "fine-tuning")
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
        if progress is not None:
            progress(step + 1, steps)
    return losses
