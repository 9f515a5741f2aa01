"""Gate rows start as detectors: a linear probe tells harmful prompts from harmless ones where the answer begins.

A neuron whose gate is closed on harmful prompts gives its write vector hardly any gradient, and training first has
to find out when the neuron should fire. What the gates of one layer read is the same vector, so a single ridge
regression per layer answers that beforehand, in closed form.
"""

from collections.abc import Sequence

import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from pkedit.errors import NonFiniteStatesError
from pkedit.models.chat import ChatModel
from pkedit.models.frozen import FrozenPrompts
from pkedit.models.hooks import inputs_of
from pkedit.models.prefix import PrefixCache

# Of the mean square of an input coordinate. Small against the signal, large against what few prompts cannot tell.
RIDGE = 0.1


def detector(harmful: Tensor, harmless: Tensor) -> Tensor:
    """The direction that reads 1 on the mean harmful input and as little as possible on harmless ones: [hidden].

    Ridge regression onto 1 for harmful and 0 for harmless inputs, both classes weighing the same, without an
    intercept, for a gate has none.

    Args:
        harmful: MLP inputs at the last prompt token, [prompts, hidden].
        harmless: the same of harmless prompts.

    Raises:
        NonFiniteStatesError: an input is NaN or Inf.
    """
    inputs = torch.cat([part.float().cpu() for part in (harmful, harmless)])
    if not torch.isfinite(inputs).all():
        raise NonFiniteStatesError(
            "the states that enter the edited layers are NaN or Inf: the model does not fit into the format of its "
            "weights. Try --dtype float32 or bfloat16"
        )
    wanted = torch.cat([torch.ones(len(harmful)), torch.zeros(len(harmless))])
    weight = torch.cat([torch.full((len(part),), 1 / len(part)) for part in (harmful, harmless)])
    penalty = RIDGE * float((weight.unsqueeze(1) * inputs.square()).sum(0).mean())
    probe = Ridge(alpha=penalty, fit_intercept=False).fit(inputs.numpy(), wanted.numpy(), sample_weight=weight.numpy())
    direction = torch.from_numpy(probe.coef_).float()
    reading = inputs[: len(harmful)].mean(0) @ direction
    # Where harmful prompts cannot be told apart there is nothing to detect.
    return direction / reading if reading > 1e-6 else torch.zeros_like(direction)


def detectors(
    chat: ChatModel, layers: Sequence[int], cache: PrefixCache | FrozenPrompts, harmful: Sequence[bool]
) -> dict[int, Tensor]:
    """The detector of each layer, from the MLP inputs where the answers begin.

    Args:
        chat: the model, as `cache` found it.
        layers: the layers whose gates are to detect.
        cache: all dialogues, prepared.
        harmful: of each dialogue, whether its prompt is.
    """
    order, entering = where_answers_begin(chat, layers, cache, range(len(harmful)))
    kinds = torch.tensor([harmful[index] for index in order])
    return {layer: detector(states[kinds], states[~kinds]) for layer, states in entering.items()}


@torch.no_grad()
def where_answers_begin(
    chat: ChatModel, layers: Sequence[int], cache: PrefixCache | FrozenPrompts, indices: Sequence[int]
) -> tuple[list[int], dict[int, Tensor]]:
    """The MLP's input at the last prompt token of dialogues in `cache`, in their order there, and this order.

    Returns:
        The indices as they were run, and for each layer the inputs in float32, [dialogues, hidden].
    """
    # All MLPs of a layer have the same input; the experts of a mixture see parts of it.
    entrances = [chat.sites_of(layer)[0].input_module for layer in layers]
    order: list[int] = []
    entering: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for group in cache.groups(indices):
        order += group
        # Read where the first answer token is decided; what follows is not looked at.
        batch = cache.batch(group, limit=1)
        starts = batch.place == 0
        seen: dict[int, Tensor] = {}
        # The pass over a shared beginning, where there is one, comes first and is overwritten.
        with inputs_of(entrances, seen.__setitem__), cache.ending_at(max(layers)):
            cache.final_states(group, batch)
        for place, states in seen.items():
            # Some models pass the tokens of all dialogues in one row.
            states = states.reshape(len(batch), -1, states.shape[-1])
            row, column = batch.row[starts].to(states.device), batch.column[starts].to(states.device)
            entering[layers[place]].append(states[row, column - cache.ahead].float().cpu())
    return order, {layer: torch.cat(parts) for layer, parts in entering.items()}
