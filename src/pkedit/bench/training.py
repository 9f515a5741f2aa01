"""Passes with gradients for chosen weights, as training makes them; the model is the same afterwards."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from torch import nn

from pkedit.models.chat import ChatModel
from pkedit.models.precision import arithmetic


@contextmanager
def trainable(chat: ChatModel, weights: Sequence[nn.Parameter], precision: str) -> Generator[None]:
    """These weights have gradients inside, all others are frozen and, in mixed precision, cast once.

    As fast as such training can be: only what the optimiser changes is cast in every pass. `precision` as in the
    settings of locating and editing.
    """
    wanted = {id(weight) for weight in weights}
    holders = [
        (module, name, weight)
        for module in chat.model.modules()
        for name, weight in module.named_parameters(recurse=False)
        if id(weight) in wanted
    ]
    with chat.frozen():
        try:
            with arithmetic(chat, precision, cast_once=True):
                for module, name, weight in holders:
                    # Back from the copy in the narrower format: the optimiser changes the weight itself.
                    setattr(module, name, weight)
                    weight.requires_grad_(True)
                yield
        finally:
            for weight in weights:
                weight.grad = None
