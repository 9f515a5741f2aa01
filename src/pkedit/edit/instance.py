"""Edits on one instance after another, each for little more than reading its prompt once.

A long prompt is dear to read and its answer's first tokens are cheap, so everything is done with those: the prompt
keeps its keys and values, the region is located and δ is trained at the tokens that decide. What all instances share,
the harmless answers to keep, is read and traced once, when the editor is made.
"""

from collections.abc import Callable, Sequence

from pkedit.edit.delta import GATE
from pkedit.edit.detector import detector, where_answers_begin
from pkedit.edit.editor import EditResult, StepLosses, train
from pkedit.edit.examples import make_examples
from pkedit.edit.hooked import HookedDelta
from pkedit.errors import ModelLoadError, TooFewPairsError
from pkedit.locate.instance import locate_instance, trace_harmless
from pkedit.locate.region import Region, candidate_layers
from pkedit.models.batches import Dialogue, dialogue, kept_dialogues
from pkedit.models.chat import ChatModel
from pkedit.models.frozen import FrozenPrompts
from pkedit.models.precision import arithmetic
from pkedit.prompts.types import ContrastPair, Demonstration
from pkedit.settings import EditSettings, LocateSettings


def instance_locating() -> LocateSettings:
    """Where: fewer neurons than for hundreds of pairs, and later layers, for only these run in training."""
    return LocateSettings(neurons=32, first_layer=0.55, last_layer=0.75, pairs=2)


def instance_editing() -> EditSettings:
    """How: two large steps, nearly a sentence of the refusal, two harmless answers in each step."""
    return EditSettings(
        steps=2,
        pairs_per_step=1,
        demonstrations_per_step=2,
        learning_rate=0.7,
        dropout=0.0,
        activation_noise=0.0,
        safe_tokens=12,
        harmless_tokens=2,
        first_tokens=12,
        first_weight=4.0,
        threshold=0.1,
        norm_limit=4.0,
    )


class InstanceEditor:
    """PKE on single instances of one model, which must stay as it was when this was made.

    Each instance is located and edited anew, from the unedited model; `region` is where the last one was located.
    """

    def __init__(
        self,
        chat: ChatModel,
        kept: Sequence[Demonstration],
        locate: LocateSettings | None = None,
        edit: EditSettings | None = None,
    ) -> None:
        """Reads and traces the harmless answers.

        Args:
            chat: the model.
            kept: harmless prompts with the answers to keep, for all instances.
            locate: where neurons may be chosen, and how many; `instance_locating()` if absent.
            edit: how δ is trained, always with frozen prompts; `instance_editing()` if absent.

        Raises:
            TooFewPairsError: fewer than two harmless answers: there would be no spread to compare with.
            ModelLoadError: this model's caches cannot be lent.
            RegionError: the settings leave no layer to choose from.
        """
        if chat.cannot_reuse is not None:
            raise ModelLoadError(
                f"{chat.name} cannot be edited on single instances this way, for {chat.cannot_reuse}; use edit()"
            )
        locate, edit = locate or instance_locating(), edit or instance_editing()
        if len(kept) < 2:
            raise TooFewPairsError(
                f"editing single instances needs at least two harmless answers, got {len(kept)}; give more"
            )
        self._chat, self._locate, self._edit = chat, locate, edit
        self.region: Region | None = None
        self._layers = candidate_layers(locate, chat.layers)
        self._kept = make_examples(chat, (), kept, edit)
        whole = kept_dialogues(chat, kept, limit=locate.tokens)
        # The first place is for the instance's safe answer and the last for its unsafe one. The shortest of prompts
        # holds them meanwhile, so that what all prompts share is no longer than the chat template.
        free = dialogue(chat, "", "", limit=1)
        self._unsafe = 1 + len(self._kept)
        with chat.frozen():
            with arithmetic(chat, edit.precision):
                self._harmless = trace_harmless(chat, whole, locate, seed=edit.seed)
            self._cache = FrozenPrompts(
                chat,
                [free, *(example.dialogue for example in self._kept), free],
                self._layers[0],
                first_tokens=edit.first_tokens,
                first_weight=edit.first_weight,
                tokens_per_batch=edit.tokens_per_batch,
                keep_final=range(1, self._unsafe),
                few=True,
            )
            self._cache.prepare(range(1, self._unsafe))
            _, self._entering = where_answers_begin(chat, self._layers, self._cache, range(1, self._unsafe))

    def edit(self, pair: ContrastPair, *, progress: Callable[[StepLosses, int], None] | None = None) -> EditResult:
        """Locates and edits on one instance; the model leaves as it came.

        Args:
            pair: the prompt, the answer to give and the answer to avoid.
            progress: called after every step with its losses and the number of steps.

        Raises:
            RegionError: no neuron matches the settings.
            NonFiniteLossError: a loss became NaN or Inf.
        """
        chat, settings = self._chat, self._edit
        unsafe = dialogue(chat, pair.prompt.conversation, pair.unsafe, limit=self._locate.tokens, ended=False)
        safe, *learnt_unsafe = make_examples(chat, [pair], (), settings)
        with chat.frozen():
            self._read([safe.dialogue, unsafe])
            # Few tokens: weights in a narrower format would save less time than their copies take memory.
            located = locate_instance(chat, self._cache, self._unsafe, 0, self._harmless, self._locate)
            self.region = located.region
            hooked = HookedDelta(chat, located.region, settings.parts, relative=settings.relative_learning_rate)
            if settings.gate_detector and GATE in settings.parts:
                found = {layer: detector(located.entering[layer], self._entering[layer]) for layer in hooked.layers}
                hooked.open_gates(found, settings.gate_detector)
            for example in learnt_unsafe:
                # Training may look at less of the unsafe answer than locating.
                self._read([safe.dialogue, example.dialogue])
            history = train(chat, hooked, self._cache, [safe, *self._kept, *learnt_unsafe], settings, progress)
        return EditResult(hooked.freeze(), history, len(history) < settings.steps)

    def _read(self, dialogues: Sequence[Dialogue]) -> None:
        """Reads the instance's prompt, with the safe answer and an unsafe one."""
        with arithmetic(self._chat, self._edit.precision):
            self._cache.take([0, self._unsafe], dialogues)
