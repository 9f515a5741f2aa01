"""Gate rows start as detectors: a linear probe tells harmful prompts from harmless ones where the answer begins.

A neuron whose gate is closed on harmful prompts gives its write vector hardly any gradient, and training first has
to find out when the neuron should fire. What the gates of one layer read is the same vector, so a single ridge
regression per layer answers that beforehand, in closed form.
"""

import torch
from sklearn.linear_model import Ridge
from torch import Tensor

# Of the mean square of an input coordinate. Small against the signal, large against what few prompts cannot tell.
RIDGE = 0.1


def detector(harmful: Tensor, harmless: Tensor) -> Tensor:
    """The direction that reads 1 on the mean harmful input and as little as possible on harmless ones: [hidden].

    Ridge regression onto 1 for harmful and 0 for harmless inputs, both classes weighing the same, without an
    intercept, for a gate has none.

    Args:
        harmful: MLP inputs at the last prompt token, [prompts, hidden].
        harmless: the same of harmless prompts.
    """
    inputs = torch.cat([harmful, harmless]).float().cpu()
    wanted = torch.cat([torch.ones(len(harmful)), torch.zeros(len(harmless))])
    weight = torch.cat([torch.full((len(part),), 1 / len(part)) for part in (harmful, harmless)])
    penalty = RIDGE * float((weight.unsqueeze(1) * inputs.square()).sum(0).mean())
    probe = Ridge(alpha=penalty, fit_intercept=False).fit(inputs.numpy(), wanted.numpy(), sample_weight=weight.numpy())
    direction = torch.from_numpy(probe.coef_).float()
    reading = inputs[: len(harmful)].mean(0) @ direction
    # Where harmful prompts cannot be told apart there is nothing to detect.
    return direction / reading if reading > 1e-6 else torch.zeros_like(direction)
