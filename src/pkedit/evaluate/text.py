"""Metrics that read only text: how varied an answer is, and how close it stays to the original one."""

import math
import re
from collections import Counter

from rouge_score.rouge_scorer import RougeScorer

# Chinese and Japanese write no spaces between words, so each of their characters is a word of its own.
_IDEOGRAPH = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
_WORD_PATTERN = rf"{_IDEOGRAPH}|(?:(?!{_IDEOGRAPH})\w)+(?:['’](?:(?!{_IDEOGRAPH})\w)+)*"
_WORD = re.compile(_WORD_PATTERN)
# As in NLTK's tokenizer, each punctuation mark is a token of its own.
_WORD_OR_MARK = re.compile(rf"{_WORD_PATTERN}|[^\w\s]")
# Equal to rouge_score's own tokenizer on ASCII text. That one drops every other letter, so that an answer in
# Greek or Chinese would score 0 against itself.
_ROUGE_WORD = re.compile(rf"{_IDEOGRAPH}|(?:(?!{_IDEOGRAPH})[^\W_])+")


def ngram_entropy(text: str) -> float:
    """Fluency as in ROME, MEMIT, EasyEdit and SafeEdit: high for varied text, near 0 for a loop.

    The mean of 2/3 · H₂ and 4/3 · H₃, that is (H₂ + 2 · H₃) / 3, where Hₙ is the entropy in bits of the
    distribution of the text's n-grams. It grows with length: compare answers of one length limit only.

    Tokens are words and single punctuation marks, found by a regular expression. The original uses NLTK's
    `word_tokenize`, which needs a download and also splits contractions; values differ slightly.

    Source: Meng et al., "Locating and Editing Factual Associations in GPT", 2022, "generation entropy";
    `n_gram_entropy` in EasyEdit's `evaluate_utils.py`.

    Returns:
        Bits, at least 0.0; exactly 0.0 for a text of fewer than three words.
    """
    if len(_WORD.findall(text)) < 3:
        return 0.0
    tokens = _WORD_OR_MARK.findall(text)
    weights = {2: 2 / 3, 3: 4 / 3}
    return sum(weight * _entropy_of_ngrams(tokens, length) for length, weight in weights.items()) / len(weights)


def rouge_l(reference: str, candidate: str) -> float:
    """ROUGE-L F1 in [0, 1]: how much of the word sequence two answers share. No stemming, case ignored.

    A text without a word scores 0.0, even against itself.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section 3.1.
    """
    scorer = RougeScorer(["rougeL"], tokenizer=_RougeTokenizer())
    return float(scorer.score(reference, candidate)["rougeL"].fmeasure)


class _RougeTokenizer:
    """The interface `rouge_score` asks of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return _ROUGE_WORD.findall(text.lower())


def _entropy_of_ngrams(tokens: list[str], length: int) -> float:
    counts = Counter(tuple(tokens[start : start + length]) for start in range(len(tokens) - length + 1))
    total = counts.total()
    return sum(count / total * math.log2(total / count) for count in counts.values())
