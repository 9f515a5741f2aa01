"""Puts an edit onto other weights of the same model: made on quantised ones, it is carried by full-precision ones.

The change stays what it was, number by number; the originals become those of the new weights. The edit was trained
beside slightly different weights, so how far they lie apart belongs to the result.
"""

from dataclasses import dataclass, replace
from math import isnan

from pkedit.edit.base import SHAPES, base_facts
from pkedit.edit.delta import Delta, vectors
from pkedit.errors import DeltaError
from pkedit.models.chat import ChatModel

# Of the length of the original vectors. Four bits are off by about 0.1, three by 0.2; other weights by 1 or more.
LARGEST_ERROR = 0.25


@dataclass(frozen=True)
class Rebased:
    """The edit for the new weights.

    `error`: how far these lie from those it was made on, as a share of their length, in the matrix where that is most.
    `differences`: in words, what else is another in the new base.
    """

    delta: Delta
    error: float
    differences: tuple[str, ...]


def rebase(delta: Delta, chat: ChatModel) -> Rebased:
    """The same edit for the weights of `chat`; neither is changed.

    Raises:
        DeltaError: the new base has other shapes or neurons, is quantised itself, or its weights are further from the
            originals than quantisation explains.
    """
    differences: list[str] = []
    if delta.made_for is not None:
        facts = base_facts(chat)
        sizes = list(delta.made_for.differences(facts, *SHAPES))
        if sizes:
            raise DeltaError(
                f"the edit cannot go onto {chat.name}, a model of another shape: {delta.base} has "
                f"{'; '.join(sizes)}; give the same model in full precision"
            )
        differences = list(delta.made_for.differences(facts, "architecture", "chat_template"))
    layers = []
    errors: dict[str, float] = {}
    for layer in delta.layers:
        site = chat.places.get(layer.site)
        if site is None or (len(layer.neurons) and int(layer.neurons.max()) >= site.neurons):
            raise DeltaError(
                f"the edit cannot go onto {chat.name}: it has no neurons where {layer.name} is changed; give the "
                "same model"
            )
        if site.quantised:
            raise DeltaError(f"{chat.name} is quantised, and nothing can be written to it; give full-precision weights")
        original = {}
        for part, old in layer.original.items():
            now = vectors(site, part).detach()[layer.neurons.to(site.device)].cpu().clone()
            if now.shape != old.shape:
                raise DeltaError(
                    f"the edit cannot go onto {chat.name}: {layer.name} has vectors of {now.shape[1]} numbers there, "
                    f"{old.shape[1]} where it was made; give the same model"
                )
            distance = (now.float() - old.float()).norm() / now.float().norm().clamp_min(1e-12)
            errors[f"{layer.name}, {part}"] = float(distance)
            original[part] = now
        layers.append(replace(layer, original=original))
    worst = max(errors, key=lambda name: (isnan(errors[name]), errors[name]), default="")
    error = errors.get(worst, 0.0)
    # Written so that NaN fails.
    if not error <= LARGEST_ERROR:
        raise DeltaError(
            f"{chat.name} is not what {delta.base or 'the base of this edit'} was quantised from: their weights differ "
            f"by {100 * error:.1f} % in {worst}, more than the {100 * LARGEST_ERROR:.0f} % that quantisation "
            "explains; give the model that was quantised"
        )
    return Rebased(Delta(tuple(layers), chat.name, base_facts(chat)), error, tuple(differences))
