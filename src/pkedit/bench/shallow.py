"""A loaded model with its first layers only, for as long as it is measured so."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from pkedit.models.chat import ChatModel


@contextmanager
def shallower(chat: ChatModel, layers: int) -> Generator[ChatModel]:
    """The same model without the layers from `layers` on, its norm and head behind what is left; whole again after.

    Raises:
        ValueError: `layers` is not between one and the model's own number.
    """
    if not 1 <= layers <= chat.layers:
        raise ValueError(f"{layers} layers of a model that has {chat.layers}")
    path, _, name = chat.family.blocks.rpartition(".")
    holder = chat.body.get_submodule(path)
    config = chat.model.config.get_text_config()
    whole, number = getattr(holder, name), config.num_hidden_layers
    setattr(holder, name, nn.ModuleList(list(whole)[:layers]))
    config.num_hidden_layers = layers
    try:
        yield replace(chat, sites=tuple(site for site in chat.sites if site.layer < layers))
    finally:
        setattr(holder, name, whole)
        config.num_hidden_layers = number
