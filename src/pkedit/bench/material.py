"""The prompts and answers that the stages work on: the built-in ones, or made-up words of any length.

Costs do not depend on what is said, so no answer is sampled: fixed words stand for the model's own.
"""

import random
from dataclasses import dataclass, replace

from pkedit.models.chat import ChatModel
from pkedit.prompts import ContrastPair, Demonstration, Kind, Prompt, builtin_refusals, contrast_pairs
from pkedit.run.data import UNSAFE_OPENING, edit_prompts, read_splits
from pkedit.settings import RunSettings

# Each is one token behind a space for the tokenizers of common models, and for the stand-in.
WORDS = (
    *("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he"),
    *("this", "are", "or", "his", "from", "at", "which", "but", "have", "an", "had", "they", "you", "were", "their"),
    *("one", "all", "we", "can", "her", "has", "there", "been", "if", "more", "when", "will", "would", "who", "so"),
    *("no", "out", "up", "into", "time", "than", "only", "some", "could", "new", "other", "two", "may", "then", "do"),
)
# As long as the answers that are traced.
UNSAFE = f"{UNSAFE_OPENING} to go about it, one step after the other. To begin with, take all that you need and"
HARMLESS = "Of course. There are several ways to do this well, and the first one is to begin with what you have"
ANSWER_WORDS = 20


@dataclass(frozen=True)
class Material:
    """Contrast pairs, harmless answers, and user messages to be answered."""

    pairs: tuple[ContrastPair, ...]
    demonstrations: tuple[Demonstration, ...]
    texts: tuple[str, ...]

    @property
    def prompts(self) -> list[Prompt]:
        """Those of the pairs, then those of the harmless answers."""
        return [*(pair.prompt for pair in self.pairs), *(kept.prompt for kept in self.demonstrations)]

    def first(self, pairs: int, demonstrations: int) -> "Material":
        """The first so many of both."""
        return replace(self, pairs=self.pairs[:pairs], demonstrations=self.demonstrations[:demonstrations])


def builtin_material() -> Material:
    """The prompts that a run with default settings learns from, harmful and safe ones in turn where they are asked."""
    settings = RunSettings()
    prompts = edit_prompts(read_splits(settings), settings)
    pairs = contrast_pairs(prompts.harmful, builtin_refusals(), [UNSAFE] * len(prompts.harmful))
    kept = [Demonstration(prompt, HARMLESS) for prompt in prompts.safe]
    both = zip(prompts.harmful, prompts.safe, strict=False)
    return Material(tuple(pairs), tuple(kept), tuple(prompt.text for turn in both for prompt in turn))


def made_up_material(chat: ChatModel, count: int, *, prompt_tokens: int, seed: int = 0) -> Material:
    """So many pairs, and as many harmless answers, of random words.

    Args:
        chat: whose chat template and tokenizer count.
        count: of each.
        prompt_tokens: of every prompt with its template; a tokenizer that splits words may give a few more or less.
        seed: of the words.
    """
    draw = random.Random(seed)
    harmful = [_prompt(chat, f"h{number}", Kind.HARMFUL, prompt_tokens, draw) for number in range(count)]
    harmless = [_prompt(chat, f"s{number}", Kind.HARMLESS, prompt_tokens, draw) for number in range(count)]
    pairs = [ContrastPair(prompt, _words(draw, ANSWER_WORDS), _words(draw, ANSWER_WORDS)) for prompt in harmful]
    kept = [Demonstration(prompt, _words(draw, ANSWER_WORDS)) for prompt in harmless]
    return Material(tuple(pairs), tuple(kept), tuple(prompt.text for prompt in (*harmful, *harmless)))


def mean_prompt_tokens(chat: ChatModel, material: Material) -> float:
    """Tokens of a prompt in the chat template, on average over pairs and harmless answers."""
    prompts = material.prompts
    return sum(len(chat.prompt_ids(prompt.conversation)) for prompt in prompts) / len(prompts)


def _prompt(chat: ChatModel, name: str, kind: Kind, tokens: int, draw: random.Random) -> Prompt:
    around = len(chat.prompt_ids(""))
    text = _words(draw, max(tokens - around, 1))
    # Words that are several tokens, if there are any, are made up for by fewer of them.
    excess = len(chat.prompt_ids(text)) - tokens
    if excess > 0:
        text = " ".join(text.split(" ")[:-excess] or [WORDS[0]])
    return Prompt(id=name, question=text, text=text, kind=kind)


def _words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count))
