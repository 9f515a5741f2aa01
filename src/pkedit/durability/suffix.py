"""A white-box attack: a suffix of tokens found by gradient so that the answer begins as the attacker wants.

Greedy coordinate gradient, Zou et al. 2023, arXiv 2307.15043, algorithm 1, on single questions. The kept library
nanogcg (0.3.0) needs transformers below 4.48, so this is a small one of its own with a fixed budget.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pkedit.durability.record import DurabilitySettings
from pkedit.durability.subject import Asked, NotMeasuredError, Subject
from pkedit.evaluate.suite import Suite
from pkedit.models.batches import Dialogue, make_batch, state_likelihoods
from pkedit.models.chat import ChatModel
from pkedit.models.keys import Keys, lent, read_beginning
from pkedit.models.precision import arithmetic
from pkedit.models.rendering import render
from pkedit.run.data import UNSAFE_OPENING

# Stands for the suffix while the chat template is rendered.
PLACE = "PKEDITSUFFIX"
START = "!"


@contextmanager
def suffix_attack(subject: Subject) -> Generator[Asked]:
    """A suffix of its own behind each of a few bare questions (Zou et al. 2023, arXiv 2307.15043)."""
    ground, settings = subject.ground, subject.settings
    questions = ground.suite.groups["bare"][: settings.suffix_prompts]
    with subject.edited():
        found = {}
        total = len(questions) * settings.suffix_steps
        with arithmetic(subject.chat, settings.precision, cast_once=True):
            for number, prompt in enumerate(questions):
                before = number * settings.suffix_steps
                attack = Attack(subject.chat, prompt.text, UNSAFE_OPENING, settings, seed=settings.seed + number)
                for step in range(settings.suffix_steps):
                    attack.step()
                    ground.observer.step(before + step + 1, total, f"loss {attack.loss:.2f}")
                found[prompt.id] = attack
        first, last = (sum(one.losses[place] for one in found.values()) / len(found) for place in (0, -1))
        note = (
            f"{len(found)} questions, {settings.suffix_steps} steps of {settings.suffix_width} candidates; loss of the "
            f"wanted opening {first:.2f} → {last:.2f} nats a token"
        )
        yield Asked(
            subject.chat,
            wording=lambda _, prompt: found[prompt.id].message,
            suite=Suite({"bare": tuple(questions)}),
            note=note,
        )


@dataclass(frozen=True, eq=False)
class _Around:
    """The tokens of a prompt before the suffix and behind it, and what has been read of the former."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    keys: Keys | None


class Attack:
    """One suffix for one question. `loss`: −log p of the wanted opening per token under the best suffix so far."""

    def __init__(
        self, chat: ChatModel, question: str, opening: str, settings: DurabilitySettings, *, seed: int
    ) -> None:
        self._chat = chat
        self._question = question
        self._settings = settings
        self._generator = torch.Generator().manual_seed(seed)
        self._target = tuple(chat.answer_ids(opening, ended=False))
        self._around = _around(chat, question)
        self._allowed = _allowed(chat)
        self._suffix = torch.tensor(_start(chat, question, self._around, settings.suffix_tokens))
        self.losses = [float(self._losses(self._suffix.unsqueeze(0))[0])]

    @property
    def loss(self) -> float:
        """Of the best suffix so far."""
        return self.losses[-1]

    @property
    def message(self) -> str:
        """The question with the suffix behind it."""
        return f"{self._question} {self._text(self._suffix)}"

    def step(self) -> None:
        """Tries candidates that differ from the best suffix in one token, and keeps the best of all."""
        candidates = self._candidates()
        loss = self.loss
        if len(candidates):
            losses = self._losses(candidates)
            best = int(losses.argmin())
            if float(losses[best]) < loss:
                self._suffix, loss = candidates[best], float(losses[best])
        self.losses.append(loss)

    def _candidates(self) -> Tensor:
        """Up to `suffix_width` suffixes, [candidates, tokens], that are read back as the same tokens."""
        settings, length = self._settings, len(self._suffix)
        likely = (-self._gradient()).topk(min(settings.suffix_top, len(self._allowed)), dim=1).indices
        rows = []
        for _ in range(settings.suffix_width):
            place = int(torch.randint(length, (1,), generator=self._generator))
            pick = int(torch.randint(likely.shape[1], (1,), generator=self._generator))
            changed = self._suffix.clone()
            changed[place] = self._allowed[likely[place, pick]]
            rows.append(changed)
        kept = [row for row in rows if self._read_back(row)]
        return torch.stack(kept) if kept else torch.empty(0, length, dtype=torch.long)

    def _read_back(self, suffix: Tensor) -> bool:
        whole = [*self._around.before, *suffix.tolist(), *self._around.after]
        return self._chat.prompt_ids(f"{self._question} {self._text(suffix)}") == whole

    def _text(self, suffix: Tensor) -> str:
        return str(self._chat.tokenizer.decode(suffix.tolist())).strip()

    def _gradient(self) -> Tensor:
        """∂ loss / ∂ one-hot token at each place of the suffix, for allowed tokens: [tokens, allowed].

        The embedding is linear in the one-hot vector, so this is ∂ loss / ∂ embedding times each token's embedding.
        """
        embedding: Any = self._chat.model.get_input_embeddings()
        batch = self._batch(self._suffix.unsqueeze(0))
        with torch.enable_grad(), self._chat.frozen():
            embedded = embedding(batch.ids).detach().requires_grad_()
            loss = -self._per_row(batch, inputs_embeds=embedded).sum()
            (gradient,) = torch.autograd.grad(loss, embedded)
            start = 0 if self._around.keys is not None else len(self._around.before)
            own = gradient[0, start : start + len(self._suffix)].float()
            vocabulary = embedding(self._allowed.to(batch.ids.device)).detach().float()
        scores: Tensor = own @ vocabulary.T
        return scores.cpu()

    @torch.no_grad()
    def _losses(self, suffixes: Tensor) -> Tensor:
        """−log p of the opening, the mean per token, under each suffix: [candidates]."""
        batch = self._batch(suffixes)
        return -self._per_row(batch, input_ids=batch.ids).float().cpu()

    def _batch(self, suffixes: Tensor) -> Any:
        before = () if self._around.keys is not None else self._around.before
        dialogues = [Dialogue((*before, *own, *self._around.after), self._target) for own in suffixes.tolist()]
        return make_batch(dialogues, first_tokens=0, first_weight=1.0, device=self._chat.device)

    def _per_row(self, batch: Any, **given: Tensor) -> Tensor:
        cache = {}
        if self._around.keys is not None:
            cache = {"past_key_values": lent(self._around.keys, len(batch)), "use_cache": True}
        states = self._chat.body(**given, **(cache or {"use_cache": False})).last_hidden_state
        per_row: Tensor = batch.per_dialogue(state_likelihoods(self._chat, batch.at_answers(states), batch.target))
        return per_row


def _around(chat: ChatModel, question: str) -> _Around:
    """Where in the prompt a suffix stands.

    Raises:
        NotMeasuredError: the chat template changes messages, so that it is not seen where.
    """
    parts = render(chat.tokenizer, [{"role": "user", "content": f"{question} {PLACE}"}], name=chat.name).split(PLACE)
    if len(parts) != 2:
        raise NotMeasuredError("the chat template changes the message, so a suffix has no place in it")
    tokenizer = chat.tokenizer
    # The space belongs to the first token of the suffix, as words have it in most vocabularies.
    sides = (parts[0].rstrip(" "), parts[1])
    before, after = (tuple(tokenizer(side, add_special_tokens=False)["input_ids"]) for side in sides)
    with torch.no_grad():
        keys = None if chat.cannot_reuse is not None else read_beginning(chat.model, before)
    return _Around(before, after, keys)


def _start(chat: ChatModel, question: str, around: _Around, tokens: int) -> list[int]:
    """The tokens of so many exclamation marks behind the question, as the model reads them there.

    Raises:
        NotMeasuredError: they run together with what stands beside them.
    """
    whole = chat.prompt_ids(f"{question} {' '.join([START] * tokens)}")
    before, end = len(around.before), len(whole) - len(around.after)
    if end <= before or (*whole[:before], *whole[end:]) != (*around.before, *around.after):
        raise NotMeasuredError("the tokens of a suffix run together with those beside them")
    return whole[before:end]


def _allowed(chat: ChatModel) -> Tensor:
    """Tokens that a user can type: printable ASCII, nothing special."""
    size = len(chat.model.get_input_embeddings().weight)
    special = set(chat.tokenizer.all_special_ids)
    texts: Sequence[str] = chat.tokenizer.batch_decode([[token] for token in range(min(size, len(chat.tokenizer)))])
    typed = [token for token, text in enumerate(texts) if token not in special and _can_be_typed(text.strip())]
    return torch.tensor(typed)


def _can_be_typed(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable()
