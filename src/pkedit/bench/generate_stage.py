"""Answering beside transformers' own batched generation: the same prompts, the same number of new tokens."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pkedit.bench.figures import Ratio, StageFigures, make_row
from pkedit.bench.measuring import alternately, now, time_ratios
from pkedit.bench.workbench import Workbench
from pkedit.errors import OutOfMemoryError
from pkedit.models.chat import ChatModel
from pkedit.models.costs import forward_flops
from pkedit.settings import EvaluateSettings

LEAST_SPEED = 0.95


def generate_stage(bench: Workbench) -> StageFigures:
    """`ChatModel.generate` as a run calls it, and the bare generation with whichever batch size is fastest."""
    chat = bench.chat
    count, tokens = bench.sizes.answered
    texts = bench.material.texts[:count]

    def own() -> None:
        chat.generate(texts, max_new_tokens=tokens, batch_size=EvaluateSettings().batch_size)

    with all_of_length(chat.model, tokens):
        own()
        best = _best_batch(bench, texts, tokens)
        names = ("generate", f"transformers, batches of {best}")

        def others() -> None:
            bare(chat, texts, tokens, best)

        runs = alternately(dict(zip(names, (own, others), strict=True)), bench.repeats, bench.device, bench.step)
    prompts = [len(chat.prompt_ids(text)) for text in texts]
    read = sum(prompts)
    written = len(texts) * tokens
    flops = forward_flops(
        bench.shape,
        read + written,
        context=sum(length**2 for length in prompts) / read / 2,
        layers=bench.shape.layers,
        logits=written,
    )
    return StageFigures(
        "generate",
        rows=tuple(
            make_row(
                name,
                runs[name],
                tokens=written,
                weight_bytes=bench.weight_bytes,
                flops=flops,
                peak_flops=bench.plain_peaks.matmul_flops,
            )
            for name in names
        ),
        ratios=(
            Ratio(
                "generate: speed ÷ transformers'",
                tuple(1 / ratio for ratio in time_ratios(runs[names[0]], runs[names[1]])),
                LEAST_SPEED,
                at_least=True,
            ),
        ),
        notes=(
            f"Answered {len(texts)} prompts of {read / len(texts):.0f} tokens with {tokens} tokens each; of bare "
            f"batches of {', '.join(map(str, bench.sizes.batches))}, those of {best} were fastest.",
        ),
    )


@torch.inference_mode()
def bare(chat: ChatModel, texts: Sequence[str], max_new_tokens: int, batch_size: int) -> list[str]:
    """Greedy answers as transformers documents it: sorted by length, padded on the left, `model.generate`."""
    tokenizer = chat.tokenizer
    rendered = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
        for text in texts
    ]
    order = sorted(range(len(texts)), key=lambda index: -len(rendered[index]))
    answers: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        inputs = tokenizer(
            [rendered[index] for index in batch],
            add_special_tokens=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(chat.device)
        written = chat.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
        )[:, inputs["input_ids"].shape[1] :]
        answers.update(zip(batch, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True))
    return [answers[index] for index in range(len(texts))]


@contextmanager
def all_of_length(model: Any, tokens: int) -> Generator[None]:
    """No answer ends before it has so many tokens, whoever calls `model.generate`: the work is then the same."""
    before = model.generation_config.min_new_tokens
    model.generation_config.min_new_tokens = tokens
    try:
        yield
    finally:
        model.generation_config.min_new_tokens = before


def _best_batch(bench: Workbench, texts: Sequence[str], tokens: int) -> int:
    """The batch size with which the bare generation is fastest, of those that fit; sizes beyond all prompts are one.

    Raises:
        OutOfMemoryError: none fits.
    """
    seconds: dict[int, float] = {}
    for size in sorted({min(size, len(texts)) for size in bench.sizes.batches}):
        started = now(bench.device)
        try:
            bare(bench.chat, texts, tokens, size)
        except (torch.OutOfMemoryError, MemoryError):
            # Larger ones do not fit either.
            break
        seconds[size] = now(bench.device) - started
    if not seconds:
        raise OutOfMemoryError(
            "not enough memory for the smallest batch of the bare generation; try --quick or a smaller model"
        )
    return min(seconds, key=lambda size: seconds[size])
