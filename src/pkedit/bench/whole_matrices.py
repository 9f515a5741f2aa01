"""The training that edits of whole matrices do (DINM, fine-tuning): the floor of one step of an edit.

All tokens of every dialogue go through all layers, and Adam keeps two numbers for each weight of the edited layers'
matrices. Examples and loss are those of the edit (`edit/editor.py`), so that only the work differs.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkedit.bench.training import trainable
from pkedit.edit.delta import read_of
from pkedit.edit.examples import Example, to_avoid
from pkedit.edit.objective import hinge, unlikelihood
from pkedit.errors import PkeditError
from pkedit.models.batches import AnswerBatch, answer_states, divergence, make_batch, state_likelihoods
from pkedit.models.chat import ChatModel
from pkedit.models.chunks import in_chunks
from pkedit.models.experts import stored_in
from pkedit.models.sequences import by_length
from pkedit.settings import EditSettings


@dataclass(frozen=True)
class Trained:
    """The terms of the last step's loss, and bytes of the gradients and of Adam's state together."""

    safe: float
    unsafe: float
    harmless: float
    state_bytes: int


def train_whole_matrices(
    chat: ChatModel,
    layers: Collection[int],
    examples: Sequence[Example],
    settings: EditSettings,
    *,
    steps: int,
    progress: Callable[[], None],
) -> Trained:
    """So many steps in which every example is seen; at a learning rate of 0, so the model stays what it was.

    Args:
        chat: the model.
        layers: whose matrices are trained: those that `settings.parts` names, whole.
        examples: safe answers with at most one unsafe token each, and harmless answers.
        settings: of the edit.
        steps: at least one.
        progress: called after each step.

    Raises:
        PkeditError: an example is an unsafe answer of its own.
    """
    if any(example.role == "unsafe" for example in examples):
        raise PkeditError("whole-matrix training compares edits with one unsafe token; set edit.unsafe_tokens to 1")
    weights = matrices_of(chat, layers, settings.parts)
    lengths = [len(example.dialogue) for example in examples]
    # On a GPU several long dialogues share a pass here as well, so that starting its kernels is not what is measured.
    tokens = settings.tokens_per_batch * (2 if chat.device.type == "cuda" else 1)
    groups = [[examples[index] for index in group] for group in by_length(lengths, tokens=tokens)]
    pairs = sum(example.role == "safe" for example in examples)
    share = {"safe": settings.safe_weight / pairs, "harmless": settings.harmless_weight / (len(examples) - pairs)}
    with trainable(chat, weights, settings.precision):
        batches = [
            make_batch(
                [example.dialogue for example in group],
                first_tokens=settings.first_tokens,
                first_weight=settings.first_weight,
                device=chat.device,
            )
            for group in groups
        ]
        with torch.no_grad():
            original = [
                answer_states(chat, batch)[_kept(group, batch)] for group, batch in zip(groups, batches, strict=True)
            ]
        optimizer = torch.optim.Adam(weights, lr=0.0, betas=(0.9, 0.98))
        totals: Tensor = torch.zeros(3)
        for _ in range(steps):
            optimizer.zero_grad()
            totals = torch.zeros(3)
            for group, batch, before in zip(groups, batches, original, strict=True):
                safe, unsafe, harmless = _terms(chat, group, batch, before, settings)
                loss = share["safe"] * safe + settings.unsafe_weight / pairs * unsafe + share["harmless"] * harmless
                loss.backward()  # type: ignore[no-untyped-call]
                totals += torch.stack([safe, unsafe, harmless]).detach().cpu()
            optimizer.step()
            # The casts of weights that were just changed are not those to use next.
            torch.clear_autocast_cache()
            progress()
        held = [weight.grad for weight in weights]
        held += [part for state in optimizer.state.values() for part in state.values() if part.dim()]
        state_bytes = sum(part.numel() * part.element_size() for part in held if part is not None)
    return Trained(
        float(totals[0]) / pairs, float(totals[1]) / pairs, float(totals[2]) / (len(examples) - pairs), state_bytes
    )


def matrices_of(chat: ChatModel, layers: Collection[int], parts: Sequence[str]) -> list[nn.Parameter]:
    """The parameters that hold these parts (`write`, `read0` …) of all MLPs in these layers, each once."""
    modules = [
        site.write if (which := read_of(part)) is None else site.reads[which].module
        for layer in sorted(layers)
        for site in chat.sites_of(layer)
        for part in parts
    ]
    return stored_in(modules)


def _terms(
    chat: ChatModel, group: Sequence[Example], batch: AnswerBatch, original: Tensor, settings: EditSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the dialogues of a batch: hinge of the safe answers, unlikelihood of the unsafe tokens, harmless KL."""
    states = answer_states(chat, batch)
    kept = _kept(group, batch)
    starts, tokens = to_avoid(group, batch)
    likelihood = state_likelihoods(
        chat, torch.cat([states[~kept], states[starts]]), torch.cat([batch.target[~kept], tokens])
    )
    safe, avoided = likelihood.tensor_split([len(likelihood) - len(tokens)])
    moved = in_chunks(states[kept], lambda part, at: divergence(chat.head(original[at]), chat.head(part)))
    none = torch.zeros(len(kept), device=states.device)
    harmless = torch.tensor([example.role == "harmless" for example in group], device=states.device)
    missed = batch.per_dialogue(none.masked_scatter(~kept, -safe))[~harmless]
    return (
        hinge(missed, settings.threshold).sum(),
        unlikelihood(avoided, settings.unsafe_bound).sum(),
        batch.per_dialogue(none.masked_scatter(kept, moved)).sum(),
    )


def _kept(group: Sequence[Example], batch: AnswerBatch) -> Tensor:
    """Which answer tokens are those of harmless answers: [answer tokens]."""
    harmless = [example.role == "harmless" for example in group]
    return torch.tensor(harmless, device=batch.row.device)[batch.row]
