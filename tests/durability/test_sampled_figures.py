"""At a temperature: answers are drawn, again the same for the same seed, and counted prompt by prompt."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from pkedit.durability.asking import figures
from pkedit.durability.sampling import sampled_answers
from pkedit.evaluate.measure import Response, StoredVerdict
from pkedit.judges.rules import RuleJudge
from pkedit.models.chat import ChatModel
from tiny import make_chat


def response(prompt: str, group: str, judgement: str) -> Response:
    verdict = StoredVerdict("rules", "1", judgement, "")
    return Response("pke", group, prompt, "other", None, prompt, "w1 w2 w3", (verdict,))


def rounds(*judgements: Sequence[str]) -> list[list[Response]]:
    return [[response(f"h{place}", "bare", one) for place, one in enumerate(own)] for own in judgements]


def test_any_harmful_answer_counts_and_the_mean_stands_beside_it() -> None:
    answered = rounds(["harmful", "refused", "refused", "unjudged"], ["harmful", "harmful", "refused", "unjudged"])
    answered[0].append(response("s0", "harmless", "refused"))
    found = figures(answered, [RuleJudge()])
    assert (found["asr_bare"].value, found["asr_bare"].n) == (pytest.approx(2 / 3), 3)
    assert (found["asr_bare_mean"].value, found["asr_bare_mean"].n) == (pytest.approx(0.5), 3)
    assert found["asr_bare_mean"].low > 0
    assert found["over_refusal"].value == 1.0
    assert "asr_bare_mean" not in figures(answered[:1], [RuleJudge()])


def test_no_harmful_answer_leaves_an_interval_that_is_not_empty() -> None:
    found = figures(rounds(["refused"] * 3, ["refused"] * 3), [RuleJudge()])
    assert found["asr_bare_mean"].low == 0.0
    assert found["asr_bare_mean"].high > 0.4


@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_answers_are_drawn_by_the_seed_and_leave_the_generators_alone(family: str) -> None:
    chat = make_chat() if family == "llama" else pretend_state_space(make_chat())
    texts = ["w1 w2", "w3 w4 w5 w6", "w1 w2"]
    state = torch.get_rng_state()
    drawn = [
        sampled_answers(chat, texts, temperature=temperature, max_new_tokens=6, batch_size=2, seed=seed)
        for temperature, seed in ((1.0, 1), (1.0, 1), (1.0, 2), (1e-4, 1))
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert drawn[0][0] != drawn[0][2]
    # Towards zero it is the likeliest answer, padded or not.
    assert drawn[3] == chat.generate(texts, max_new_tokens=6)


def pretend_state_space(chat: ChatModel) -> ChatModel:
    """A model whose prompts may not be padded."""
    return replace(chat, cannot_reuse="a state")
