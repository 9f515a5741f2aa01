"""Edits on one instance after another, each for little more than reading its prompt once.

A long prompt is dear to read and its answer's first tokens are cheap, so everything is done with those: the prompt
keeps its keys and values, the region is located and δ is trained at the tokens that decide. What all instances share,
the harmless answers to keep, is read and traced once, when the editor is made.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pkedit.edit.delta import GATE
from pkedit.edit.detector import detector
from pkedit.edit.editor import EditResult, StepLosses, train
from pkedit.edit.examples import make_examples
from pkedit.edit.hooked import HookedDelta
from pkedit.errors import ModelLoadError, TooFewPairsError
from pkedit.locate.instance import candidate_layers, locate_instance, trace_harmless
from pkedit.locate.region import Region
from pkedit.models.batches import dialogue
from pkedit.models.chat import ChatModel
from pkedit.models.frozen import FrozenPrompts
from pkedit.models.hooks import inputs_of
from pkedit.models.precision import arithmetic
from pkedit.prompts.types import ContrastPair, Demonstration
from pkedit.settings import EditSettings, LocateSettings


def instance_locating() -> LocateSettings:
    """Where: fewer neurons than for hundreds of pairs, and later layers, for only these run in training."""
    return LocateSettings(neurons=32, first_layer=0.55, last_layer=0.75, pairs=2)


def instance_editing() -> EditSettings:
    """How: few large steps, nearly a sentence of the refusal, four harmless answers in each step."""
    return EditSettings(
        steps=8,
        pairs_per_step=1,
        demonstrations_per_step=4,
        learning_rate=0.3,
        dropout=0.0,
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
        """
        if chat.cannot_reuse is not None:
            raise ModelLoadError(
                f"{chat.name} cannot be edited on single instances this way, for {chat.cannot_reuse}; use edit()"
            )
        locate, edit = locate or instance_locating(), edit or instance_editing()
        if len(kept) < 2:
            raise TooFewPairsError(f"editing single instances needs at least two harmless answers, got {len(kept)}")
        self._chat, self._kept, self._locate, self._edit = chat, list(kept), locate, edit
        self.region: Region | None = None
        self._layers = candidate_layers(chat, locate)
        whole = [dialogue(chat, one.prompt.text, one.answer, limit=locate.tokens, ended=False) for one in kept]
        with chat.frozen():
            with arithmetic(chat, edit.precision):
                self._harmless = trace_harmless(chat, whole, locate, seed=edit.seed)
            short = [dialogue(chat, one.prompt.text, one.answer, limit=edit.harmless_tokens) for one in kept]
            # Two places for the instance's answers, held meanwhile by the shortest of prompts, so that what all share
            # is no longer than the chat template.
            free = dialogue(chat, "", "", limit=1)
            self._cache = FrozenPrompts(
                chat,
                [free, free, *short],
                self._layers[0],
                first_tokens=edit.first_tokens,
                first_weight=edit.first_weight,
                tokens_per_batch=edit.tokens_per_batch,
                keep_final=range(2, 2 + len(short)),
                few=True,
            )
            self._cache.prepare(range(2, 2 + len(short)))
            self._entering = self._where_answers_begin(range(2, 2 + len(short)))

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
        text = pair.prompt.text
        unsafe = dialogue(chat, text, pair.unsafe, limit=self._locate.tokens, ended=False)
        safe = dialogue(chat, text, pair.safe, limit=settings.safe_tokens)
        with chat.frozen():
            with arithmetic(chat, settings.precision):
                self._cache.take([0, 1], [safe, unsafe])
            # Few tokens: weights in a narrower format would save less time than their copies take memory.
            located = locate_instance(chat, self._cache, 1, 0, self._harmless, self._locate)
            self.region = located.region
            hooked = HookedDelta(chat, located.region, settings.parts, relative=settings.relative_learning_rate)
            if settings.gate_detector and GATE in settings.parts:
                found = {layer: detector(located.entering[layer], self._entering[layer]) for layer in hooked.layers}
                hooked.open_gates(found, settings.gate_detector)
            examples = make_examples(chat, [pair], self._kept, settings)
            if examples[1].role == "unsafe":
                self._cache.take([0, 1], [item.dialogue for item in examples[:2]])
            else:
                # The second place is not learnt from.
                examples.insert(1, examples[0])
            history = train(chat, hooked, self._cache, examples, settings, progress)
        return EditResult(hooked.freeze(), history, len(history) < settings.steps)

    @torch.no_grad()
    def _where_answers_begin(self, indices: Sequence[int]) -> dict[int, Tensor]:
        """The MLP's input at the last prompt token, per candidate layer: [dialogues, hidden]."""
        entrances = [self._chat.sites_of(layer)[0].input_module for layer in self._layers]
        entering: dict[int, list[Tensor]] = {layer: [] for layer in self._layers}
        for group in self._cache.groups(indices):
            seen: dict[int, Tensor] = {}
            batch = self._cache.batch(group, limit=1)
            with inputs_of(entrances, seen.__setitem__):
                self._cache.final_states(group, batch)
            for place, states in seen.items():
                entering[self._layers[place]].append(states.reshape(len(group), -1, states.shape[-1])[:, 0])
        return {layer: torch.cat(parts) for layer, parts in entering.items()}
