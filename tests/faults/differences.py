"""What batch sizes and threads change of a model's logits: `.venv/bin/python tests/faults/differences.py [MODEL]`."""

import sys

import torch
from torch import Tensor

from pkedit.models.chat import ChatModel
from pkedit.models.loading import load_model
from pkedit.prompts import builtin_prompts
from pkedit.prompts.types import Kind

PROMPTS = 16
THREADS, BATCHES = (1, 2), (1, 4, 16)


def last_logits(chat: ChatModel, texts: list[str], batch: int) -> Tensor:
    """Logits behind each prompt, asked so many at once, padded on the left: [prompts, vocabulary]."""
    found = []
    for start in range(0, len(texts), batch):
        ids = [chat.prompt_ids(text) for text in texts[start : start + batch]]
        longest = max(map(len, ids))
        padded = torch.tensor([[0] * (longest - len(own)) + list(own) for own in ids])
        mask = torch.tensor([[0] * (longest - len(own)) + [1] * len(own) for own in ids])
        with torch.no_grad():
            found.append(chat.model(padded, attention_mask=mask, use_cache=False).logits[:, -1].float())
    return torch.cat(found)


def differences(chat: ChatModel, texts: list[str]) -> dict[str, tuple[float, int]]:
    """The largest difference of a logit to one thread and one prompt at a time, and how many tokens that changes."""
    before = torch.get_num_threads()
    found = {}
    try:
        torch.set_num_threads(1)
        plain = last_logits(chat, texts, 1)
        for threads in THREADS:
            for batch in BATCHES:
                torch.set_num_threads(threads)
                logits = last_logits(chat, texts, batch)
                changed = int((logits.argmax(-1) != plain.argmax(-1)).sum())
                found[f"threads {threads}, batch {batch}"] = (float((logits - plain).abs().max()), changed)
    finally:
        torch.set_num_threads(before)
    return found


def main() -> None:
    """Prints them."""
    chat = load_model(sys.argv[1] if len(sys.argv) > 1 else "smollm2", dtype="float32")
    texts = [prompt.text for prompt in builtin_prompts(Kind.HARMLESS)[:PROMPTS]]
    for name, (largest, changed) in differences(chat, texts).items():
        print(f"{name}: logits differ by at most {largest:.1e}, {changed} of {len(texts)} likeliest tokens change")


if __name__ == "__main__":
    main()
