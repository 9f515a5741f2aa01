"""Which of the model's attention implementations runs, where the usual one is slow."""

from collections.abc import Generator
from contextlib import contextmanager

from pkedit.models.chat import ChatModel


@contextmanager
def few_queries(chat: ChatModel) -> Generator[None]:
    """Attention for passes of a few tokens over long caches, with gradient; the model's own again afterwards.

    On a processor the fused kernel's backward pass takes twice as long there as plain matrix products.
    """
    usual = chat.model.config._attn_implementation
    if chat.device.type != "cpu" or usual == "eager":
        yield
        return
    chat.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        chat.model.set_attn_implementation(usual)
