"""Conditions that change what the weights are stored in, or how much of the edit is left in them."""

import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from pkedit.durability.subject import Asked, NotMeasuredError, Subject
from pkedit.errors import ModelLoadError
from pkedit.export.destination import saving_weights
from pkedit.export.tokenizer import write_tokenizer
from pkedit.models.chat import ChatModel
from pkedit.models.experts import stored_in
from pkedit.models.loading import load_model

GROUP = 64


@contextmanager
def as_is(subject: Subject) -> Generator[Asked]:
    """The arm as the run left it."""
    with subject.edited():
        yield Asked(subject.chat)


@contextmanager
def reloaded(subject: Subject) -> Generator[Asked]:
    """Saved as a full model and loaded from there, as after `pkedit export --as full` (without its own check)."""
    with _saved(subject) as place, subject.edited():
        again = _loaded(subject, place)
        if _same_weights(again, subject.chat):
            yield Asked(subject.chat, same_as_is=True, note="every weight is bit for bit what it was")
        else:
            yield Asked(again, note="weights differ from those that were saved")


@contextmanager
def bfloat16(subject: Subject) -> Generator[Asked]:
    """All weights cast to bfloat16 (Kalamkar et al. 2019, arXiv 1905.12322), and multiplied so."""
    _check_plain(subject.chat)
    parameters = list(subject.chat.model.parameters())
    with subject.edited(), replaced_weights(parameters, lambda weight: weight.to(torch.bfloat16)):
        yield Asked(subject.chat)


@contextmanager
def float16(subject: Subject) -> Generator[Asked]:
    """All weights cast to float16 (Micikevicius et al. 2018, arXiv 1710.03740).

    Processors multiply float16 many times slower, so there the weights are rounded to it and multiplied in float32.
    """
    chat = subject.chat
    _check_plain(chat)
    parameters = list(chat.model.parameters())
    if chat.device.type != "cpu":
        with subject.edited(), replaced_weights(parameters, lambda weight: weight.to(torch.float16)):
            yield Asked(chat)
        return
    with subject.edited(), replaced_weights(parameters, lambda weight: weight.to(torch.float16).float()):
        yield Asked(chat, precision="full", note="weights rounded to float16, multiplied in float32")


@contextmanager
def _quantised(subject: Subject, *, bits: int) -> Generator[Asked]:
    """The matrices of all layers in so few bits; embedding, head and norms stay.

    By bitsandbytes where it is installed: LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339) or NF4 (2023, arXiv
    2305.14314). Elsewhere simulated by rounding to the nearest level and back, the baseline of Frantar et al. 2022
    (arXiv 2210.17323): 8 bits symmetric per output, 4 bits between minimum and maximum of each 64 inputs.
    """
    _check_plain(subject.chat)
    if find_spec("bitsandbytes") is not None:
        with _saved(subject) as place:
            try:
                again = _loaded(subject, place, quantisation=f"{bits}bit")
            except ModelLoadError as error:
                raise NotMeasuredError(f"loaded by bitsandbytes: {error}") from None
            yield Asked(again, note=f"by bitsandbytes {version('bitsandbytes')}")
        return
    what = "symmetric per output" if bits == 8 else f"min–max per {GROUP} inputs"
    note = f"round to nearest, {what}, for bitsandbytes is not installed"
    with subject.edited(), rounded_matrices(subject.chat, bits):
        yield Asked(subject.chat, simulated=True, note=note)


@contextmanager
def _merged(subject: Subject, *, weight: float) -> Generator[Asked]:
    """w · edited + (1 − w) · base, which is base + w · delta (Wortsman et al. 2022, arXiv 2109.01903)."""
    if subject.delta is None:
        raise NotMeasuredError("the base merged with itself is the base")
    with subject.edited(weight):
        yield Asked(subject.chat)


eight_bits = partial(_quantised, bits=8)
four_bits = partial(_quantised, bits=4)
merged = {weight: partial(_merged, weight=weight) for weight in (0.25, 0.5, 0.75)}


@contextmanager
def replaced_weights(parameters: Iterable[nn.Parameter], replacement: Callable[[Tensor], Tensor]) -> Generator[None]:
    """Each weight replaced by `replacement(weight)`, which may have another dtype; afterwards the very same as before.

    The originals are set aside, not written to: what comes back is bit for bit what was there.
    """
    kept = [(parameter, parameter.data) for parameter in parameters]
    try:
        for parameter, weight in kept:
            parameter.data = replacement(weight)
        yield
    finally:
        for parameter, weight in kept:
            parameter.data = weight


@contextmanager
def rounded_matrices(chat: ChatModel, bits: int) -> Generator[None]:
    """The matrices of all decoder layers at 8-bit or 4-bit levels (`round_symmetric`, `round_in_groups`)."""
    rounding = round_symmetric if bits == 8 else round_in_groups
    straight, transposed = _matrices(chat)
    with (
        replaced_weights(straight, rounding),
        replaced_weights(transposed, lambda weight: rounding(weight.mT).mT.contiguous()),
    ):
        yield


def round_symmetric(weight: Tensor) -> Tensor:
    """[.., outputs, inputs] at the nearest of 255 levels, evenly spaced from −max to max of each output."""
    largest = weight.float().abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return ((weight.float() / largest * 127).round() / 127 * largest).to(weight.dtype)


def round_in_groups(weight: Tensor) -> Tensor:
    """[.., outputs, inputs] at the nearest of 16 levels, evenly spaced from min to max of each 64 inputs."""

    def rounded(part: Tensor) -> Tensor:
        low = part.amin(dim=-1, keepdim=True)
        step = ((part.amax(dim=-1, keepdim=True) - low) / 15).clamp_min(torch.finfo(torch.float32).tiny)
        return ((part - low) / step).round() * step + low

    return torch.cat([rounded(part) for part in _in_groups(weight.float())], dim=-1).to(weight.dtype)


def _in_groups(weight: Tensor) -> list[Tensor]:
    return [weight[..., start : start + GROUP] for start in range(0, weight.shape[-1], GROUP)]


def _matrices(chat: ChatModel) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices in the decoder layers, stored [.., outputs, inputs] and [.., inputs, outputs]."""
    sites = [site for site in chat.sites if site.transposed]
    modules = [module for site in sites for module in (site.write, *(read.module for read in site.reads))]
    turned = {id(parameter) for parameter in stored_in(modules)}
    found = dict(_own_matrices(chat))
    straight = [one for one in found if not found[one] and id(one) not in turned]
    return straight, [one for one in found if found[one] or id(one) in turned]


def _own_matrices(chat: ChatModel) -> Iterator[tuple[nn.Parameter, bool]]:
    """Each with whether its module is a Conv1D, which stores [inputs, outputs]."""
    for block in chat.blocks:
        for module in block.modules():
            for parameter in module.parameters(recurse=False):
                if parameter.dim() in (2, 3) and not isinstance(module, nn.Embedding):
                    yield parameter, type(module).__name__ == "Conv1D"


@contextmanager
def _saved(subject: Subject) -> Generator[Path]:
    """A folder with the edited model, as export writes it; gone afterwards."""
    _check_plain(subject.chat)
    with tempfile.TemporaryDirectory(prefix="pkedit-durability-") as place:
        folder = Path(place)
        with subject.edited(), saving_weights():
            subject.chat.model.save_pretrained(folder)
        write_tokenizer(subject.chat, folder, template_given=subject.ground.run.chat_template is not None)
        yield folder


def _loaded(subject: Subject, folder: Path, quantisation: str | None = None) -> ChatModel:
    chat, run = subject.chat, subject.ground.run
    return load_model(
        str(folder),
        device=run.device,
        dtype=str(chat.dtype).removeprefix("torch."),
        mlp_write=run.mlp_write,
        trust_remote_code=run.trust_remote_code,
        quantisation=quantisation,
    )


def _same_weights(one: ChatModel, other: ChatModel) -> bool:
    """Whether all weights have the same names and are equal bit for bit."""
    first, second = (dict(chat.model.named_parameters()) for chat in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _check_plain(chat: ChatModel) -> None:
    if any(site.quantised for site in chat.sites):
        raise NotMeasuredError("the run's weights are quantised already, and the edit acts beside them")
