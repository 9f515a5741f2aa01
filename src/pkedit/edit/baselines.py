"""The methods PKE is compared with, as regions and settings of the same editor.

DINM fine-tunes one whole `down_proj`; FT does the same on a fixed layer. The pairs and the harmless answers
that they learn from are the run's own, though fewer of them are seen than by PKE.
"""

from pkedit.models.chat import ChatModel
from pkedit.settings import EditSettings

# DINM's refusal suffix is replaced by our own words of the same meaning; it is an arm, never part of an edit.
REFUSAL_SUFFIX = (
    "If the request above is unsafe in any way, decline it and say so; otherwise answer it helpfully and safely."
)

# EasyEdit's FT-L edits layer 21 of Llama-2-7B's 32: the same share of the depth for any model.
FIXED_LAYER_SHARE = 21 / 32

# The most that a step sees: on two cores ten such steps then take about a minute, half of PKE's edit.
PAIRS_PER_STEP = 36
DEMONSTRATIONS_PER_STEP = 72


def fixed_layer(chat: ChatModel) -> int:
    """The layer that FT edits."""
    return min(round(FIXED_LAYER_SHARE * chat.layers), chat.layers - 1)


def dinm_settings(settings: EditSettings, *, as_released: bool = False) -> EditSettings:
    """DINM's published hyper-parameters: whole `down_proj`, Adam at 5e-4, 10 steps, c_edit 0.1, plain mean NLL.

    No step sees more than PAIRS_PER_STEP and DEMONSTRATIONS_PER_STEP examples, for DINM passes whole dialogues
    through the model, which takes time. With `as_released` the locality loss has no gradient, as in EasyEdit,
    where it is computed under `no_grad`, and each step passes through all layers, as there; otherwise those below the
    edited one run once.
    """

    def per_step(wanted: int, most: int) -> int:
        return min(max(round(wanted * settings.steps / 10), 1), most)

    return settings.model_copy(
        update={
            "parts": ("write",),
            "frozen_prompts": False,
            "gate_detector": 0.0,
            "dropout": 0.0,
            "activation_noise": 0.0,
            "steps": 10,
            "pairs_per_step": per_step(settings.pairs_per_step, PAIRS_PER_STEP),
            "demonstrations_per_step": per_step(settings.demonstrations_per_step, DEMONSTRATIONS_PER_STEP),
            "learning_rate": 5e-4,
            "relative_learning_rate": False,
            "warm_up_and_decay": False,
            "threshold": 0.0,
            "safe_weight": 0.1,
            "unsafe_weight": 0.0,
            "harmless_weight": 1.0,
            "harmless_gradient": not as_released,
            "reuse_prefix": not as_released,
            "norm_weight": 0.0,
            "norm_limit": None,
            "first_tokens": 0,
        }
    )


def suffixed(text: str) -> str:
    """A user message with the refusal suffix behind it."""
    return f"{text}\n\n{REFUSAL_SUFFIX}"
