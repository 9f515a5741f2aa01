"""Fluency and ROUGE-L give hand-worked values and those of libraries, and behave at the edges."""

import math
import random

import pytest
from nltk import FreqDist
from nltk.util import ngrams
from rouge_score.rouge_scorer import RougeScorer

from pkedit.evaluate.text import ngram_entropy, rouge_l


def test_entropy_of_distinct_ngrams_is_the_weighted_log_of_their_counts() -> None:
    # Five words: four distinct bigrams (2 bits) and three distinct trigrams (log2 3 bits).
    assert ngram_entropy("one two three four five") == pytest.approx((2 + 2 * math.log2(3)) / 3)


def test_entropy_counts_repeated_ngrams() -> None:
    # a b a b: bigrams ab ×2, ba ×1; trigrams aba, bab.
    two_thirds_one_third = math.log2(3) - 2 / 3
    assert ngram_entropy("a b a b") == pytest.approx((two_thirds_one_third + 2 * 1) / 3)


def test_entropy_of_a_loop_is_zero() -> None:
    assert ngram_entropy("no " * 50) == 0.0


@pytest.mark.parametrize("text", ["", "   ", "word", "two words", "two words!!!", "?!."])
def test_entropy_of_fewer_than_three_words_is_zero(text: str) -> None:
    assert ngram_entropy(text) == 0.0


def test_entropy_treats_a_contraction_as_one_word_and_a_mark_as_one_token() -> None:
    assert ngram_entropy("I can't wait") == ngram_entropy("I can’t wait") == pytest.approx(1 / 3)
    assert ngram_entropy("I can't wait!") == pytest.approx((math.log2(3) + 2 * 1) / 3)


def test_varied_text_is_more_fluent_than_a_looping_one_of_the_same_length() -> None:
    varied = "bread needs flour water salt yeast time heat and some patience too"
    looping = "bread needs flour bread needs flour bread needs flour bread needs flour"
    assert ngram_entropy(varied) > ngram_entropy(looping) + 1


def test_entropy_reads_languages_without_spaces() -> None:
    assert ngram_entropy("面包需要面粉") > 1.0


def test_rouge_l_of_equal_texts_is_one_and_of_foreign_texts_zero() -> None:
    assert rouge_l("The bread is warm.", "the bread, is WARM") == 1.0
    assert rouge_l("The bread is warm.", "seventeen blue cats") == 0.0


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence() -> None:
    # Lin 2004, section 3.1: "police killed the gunman" shares "police the gunman" with the candidate.
    assert rouge_l("police killed the gunman", "police kill the gunman") == pytest.approx(3 / 4)
    # Common subsequence of 2 words in 2 and 4: precision 1, recall 1/2.
    assert rouge_l("police killed the gunman", "the gunman") == pytest.approx(2 / 3)


def test_rouge_l_heeds_word_order() -> None:
    assert rouge_l("one two three", "three two one") == pytest.approx(1 / 3)


@pytest.mark.parametrize(("reference", "candidate"), [("", ""), ("", "words"), ("words", ""), ("!", "!")])
def test_rouge_l_without_words_is_zero(reference: str, candidate: str) -> None:
    assert rouge_l(reference, candidate) == 0.0


@pytest.mark.parametrize("text", ["Το ψωμί είναι ζεστό", "面包很热", "Das Brot ist heiß"])
def test_rouge_l_of_a_non_ascii_text_against_itself_is_one(text: str) -> None:
    assert rouge_l(text, text) == 1.0


@pytest.mark.parametrize("seed", range(20))
def test_fluency_is_the_published_formula_on_nltk_counts(seed: int) -> None:
    generator = random.Random(seed)
    words = [generator.choice(["sun", "moon", "rises", "the", "sets", "."]) for _ in range(generator.randint(3, 60))]
    words[:3] = ["the", "sun", "rises"]

    def entropy(length: int) -> float:
        counts = FreqDist(ngrams(words, length))
        return -sum(counts.freq(gram) * math.log2(counts.freq(gram)) for gram in counts)

    assert ngram_entropy(" ".join(words)) == pytest.approx((2 / 3 * entropy(2) + 4 / 3 * entropy(3)) / 2)


@pytest.mark.parametrize("seed", range(20))
def test_rouge_l_is_that_of_the_library_on_english_text(seed: int) -> None:
    generator = random.Random(seed)
    texts = [
        " ".join(generator.choice(["The", "cat", "sat,", "on", "2", "mats!"]) for _ in range(12)) for _ in range(2)
    ]
    expected = RougeScorer(["rougeL"]).score(*texts)["rougeL"].fmeasure
    assert rouge_l(*texts) == pytest.approx(expected)
