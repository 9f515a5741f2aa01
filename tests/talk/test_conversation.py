"""Both sides answer as the model alone and the exported model would; each remembers, and nothing else changes."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from talking import LIMIT, QUESTION, make_delta, make_run, make_subject, plain

from pkedit.errors import DeltaError, RunFolderError, TalkError
from pkedit.models.chat import ChatModel
from pkedit.run.record import RunRecord
from pkedit.settings import RunSettings
from pkedit.talk.answer import Answer
from pkedit.talk.conversation import BOTH, Conversation, Side
from pkedit.talk.subject import Subject, open_delta, open_run
from pkedit.talk.terminal import _interrupting
from tiny import SYSTEM_TEMPLATE, changed_weights, leftovers, make_chat, snapshot

# As templates of real models do: what was read and said is the beginning of the next prompt.
ROLES = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}<user>{% else %}<assistant>{% endif %} {{ message['content'] }} {{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def last(answers: Iterator[Mapping[Side, str]]) -> Mapping[Side, str]:
    """What an iterator of growing answers ends with."""
    *_, found = answers
    return found


def talk(subject: Subject, *, strength: float = 1.0, limit: int = LIMIT) -> Conversation:
    return Conversation(subject, limit=limit, strength=strength)


def test_each_side_says_what_plain_generation_says(chat: ChatModel) -> None:
    subject = Subject(chat, make_delta(chat), source="test")
    texts = last(talk(subject).ask(QUESTION))
    assert texts == {Side.BASE: plain(subject), Side.EDITED: plain(subject, strength=1.0)}
    assert texts[Side.BASE] != texts[Side.EDITED]


def test_at_strength_0_both_sides_say_the_same() -> None:
    subject = make_subject()
    texts = last(talk(subject, strength=0.0).ask(QUESTION))
    assert texts[Side.EDITED] == texts[Side.BASE] == plain(subject)


def test_strength_scales_the_edit() -> None:
    subject = make_subject()
    answers = {strength: last(talk(subject, strength=strength).ask(QUESTION))[Side.EDITED] for strength in (0.3, 1.0)}
    assert answers[0.3] == plain(subject, strength=0.3) != answers[1.0]


def test_a_saved_generation_setting_acts_as_it_does_in_generation() -> None:
    subject = make_subject()
    without = last(talk(subject, limit=24).ask(QUESTION))[Side.BASE]
    subject.chat.model.generation_config.repetition_penalty = 50.0
    prompt = torch.tensor([subject.chat.prompt_ids(QUESTION)])
    written = subject.chat.model.generate(prompt, max_new_tokens=24, do_sample=False, pad_token_id=2)[0]
    expected = subject.chat.tokenizer.decode(written[prompt.shape[1] :], skip_special_tokens=True)
    assert last(talk(subject, limit=24).ask(QUESTION))[Side.BASE] == expected.strip() != without


def test_the_weights_are_the_base_models_after_every_token(chat: ChatModel) -> None:
    subject = Subject(chat, make_delta(chat), source="test")
    before = snapshot(chat.model)
    changed = [changed_weights(chat.model, before) for _ in talk(subject).ask(QUESTION)]
    assert len(changed) > 2
    assert not any(changed)
    assert not leftovers(chat.model)


def test_the_weights_are_the_base_models_when_a_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make_subject()
    before = snapshot(subject.chat.model)

    def fail(*_: object, **__: object) -> None:
        assert changed_weights(subject.chat.model, before)
        raise MemoryError

    monkeypatch.setattr(subject.chat.model, "generate", fail)
    with pytest.raises(MemoryError):
        last(talk(subject).ask(QUESTION, [Side.EDITED]))
    assert not changed_weights(subject.chat.model, before)


def test_the_texts_grow_together_token_by_token() -> None:
    lengths = [[len(text.split()) for text in texts.values()] for texts in talk(make_subject()).ask(QUESTION)]
    for number, counts in enumerate(lengths[:-1], 1):
        assert all(count <= number for count in counts)
    assert max(lengths[0]) == 1
    assert max(lengths[-1]) == LIMIT


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_each_side_remembers_its_own_answers(family: str) -> None:
    subject = make_subject(family)
    conversation = talk(subject)
    first = last(conversation.ask(QUESTION))
    second = last(conversation.ask("w7 w8"))
    for side, strength in ((Side.BASE, 0.0), (Side.EDITED, 1.0)):
        # The tiny template writes every message the same way.
        assert second[side] == plain(
            subject, f"{QUESTION} </s><user> {first[side]} </s><user> w7 w8", strength=strength
        )
        assert [exchange.question for exchange in conversation.exchanges(side)] == [QUESTION, "w7 w8"]


def test_what_was_read_before_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make_subject()
    subject.chat.tokenizer.chat_template = ROLES
    subject = Subject(subject.chat, make_delta(subject.chat), source="test")
    conversation = talk(subject)
    read = []
    original = Answer._next

    def counted(self: Answer, tokens: list[int]) -> int:
        read.append(len(tokens) - (len(self.memory.tokens) if self.memory else 0))
        return original(self, tokens)

    monkeypatch.setattr(Answer, "_next", counted)
    last(conversation.ask(QUESTION, [Side.BASE]))
    whole = read[0]
    assert set(read[1:]) == {1}
    read.clear()
    second = last(conversation.ask("w7", [Side.BASE]))[Side.BASE]
    # The last word of the answer, its end, and the question in the template.
    assert read[0] == 1 + 1 + 4 < whole
    monkeypatch.undo()
    conversation._voices[Side.BASE].memory = None
    assert last(conversation.again([Side.BASE]))[Side.BASE] == second


def test_a_cache_of_another_strength_is_not_used() -> None:
    subject = make_subject()
    conversation = talk(subject)
    first = last(conversation.ask(QUESTION))[Side.EDITED]
    conversation.strength = 0.3
    second = last(conversation.ask("w7"))[Side.EDITED]
    assert second == plain(subject, f"{QUESTION} </s><user> {first} </s><user> w7", strength=0.3)


def test_one_side_alone_leaves_the_other_without_the_question() -> None:
    conversation = talk(make_subject())
    assert last(conversation.ask(QUESTION, [Side.BASE])).keys() == {Side.BASE}
    assert not conversation.exchanges(Side.EDITED)


def test_again_replaces_the_last_answer_at_the_present_strength() -> None:
    subject = make_subject()
    conversation = talk(subject)
    base = last(conversation.ask(QUESTION))[Side.BASE]
    conversation.strength = 0.0
    assert last(conversation.again([Side.EDITED])) == {Side.EDITED: base}
    assert [exchange.answer for exchange in conversation.exchanges(Side.EDITED)] == [base]


def test_again_without_a_question_says_nothing() -> None:
    assert not list(talk(make_subject()).again(BOTH))


def test_reset_forgets_both_sides() -> None:
    subject = make_subject()
    conversation = talk(subject)
    last(conversation.ask(QUESTION))
    conversation.reset()
    assert not conversation.exchanges(Side.BASE)
    assert last(conversation.ask("w7 w8"))[Side.BASE] == plain(subject, "w7 w8")


def test_a_stopped_answer_stays_as_far_as_it_went() -> None:
    conversation = talk(make_subject())
    answers = conversation.ask(QUESTION)
    next(answers)
    so_far = next(answers)
    conversation.stop()
    assert not list(answers)
    assert conversation.exchanges(Side.BASE)[-1].answer == so_far[Side.BASE]
    assert not conversation.exchanges(Side.BASE)[-1].finished


def test_ctrl_c_at_any_moment_stops_and_never_waits_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = talk(make_subject())
    original = Answer.text.fget
    assert original
    read = []

    def interrupted(answer: Answer) -> str:
        # Where the texts are handed on, the conversation is locked by this very thread.
        read.append(answer)
        if len(read) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(answer)

    monkeypatch.setattr(Answer, "text", property(interrupted))

    def waited_too_long(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, waited_too_long)
    signal.alarm(5)
    try:
        with _interrupting(conversation.stop):
            shown = list(conversation.ask(QUESTION))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert len(shown) == 1
    assert len(read) == 3


def test_a_stop_from_another_thread_waits_until_the_texts_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = talk(make_subject())
    original = Answer.text.fget
    assert original
    stopped = threading.Event()
    thread = threading.Thread(target=lambda: (conversation.stop(), stopped.set()))

    def stopping(answer: Answer) -> str:
        if not thread.ident:
            thread.start()
        assert not stopped.wait(0.05)
        return original(answer)

    monkeypatch.setattr(Answer, "text", property(stopping))
    list(conversation.ask(QUESTION))
    thread.join(5)
    assert stopped.is_set()


def test_a_new_question_ends_the_answer_before_it() -> None:
    conversation = talk(make_subject())
    old = conversation.ask(QUESTION)
    next(old)
    new = conversation.ask("w7 w8")
    assert not list(old)
    assert last(new)
    assert [exchange.question for exchange in conversation.exchanges(Side.BASE)] == [QUESTION, "w7 w8"]
    assert len(conversation.exchanges(Side.BASE)[0].answer.split()) == 1


def test_a_question_stopped_before_the_first_word_is_forgotten() -> None:
    subject = make_subject()
    conversation = talk(subject)
    conversation.ask(QUESTION)
    assert last(conversation.ask("w7 w8"))[Side.BASE] == plain(subject, "w7 w8")


def test_the_earliest_questions_are_left_out_when_no_more_fits() -> None:
    conversation = talk(make_subject(), limit=40)
    question = " ".join(["w1"] * 20)
    left_out = []
    for _ in range(6):
        next(conversation.ask(question))
        left_out.append(conversation.left_out(Side.BASE))
    assert left_out[0] == 0
    assert left_out == sorted(left_out)
    assert left_out[-1] >= 2


def test_a_question_longer_than_the_model_reads_is_refused_and_leaves_no_trace() -> None:
    conversation = talk(make_subject())
    with pytest.raises(TalkError, match="at most 128; shorten it"):
        conversation.ask(" ".join(["w1"] * 200))
    assert not conversation.exchanges(Side.BASE)


def test_an_empty_question_is_refused() -> None:
    with pytest.raises(TalkError, match="type a question"):
        talk(make_subject()).ask("  \n")


def test_a_run_folder_opens_with_its_model_and_edit(tmp_path: Path) -> None:
    subject = open_run(make_run(tmp_path))
    assert subject.title == "model · run run · 5 edited neurons in 2 layers · cpu, float32"
    assert last(talk(subject).ask(QUESTION)) == last(talk(make_subject()).ask(QUESTION))


def test_an_edit_opens_with_the_model_it_names(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    delta = replace(make_delta(make_chat()), base=str(tmp_path / "model"))
    delta.save(tmp_path / "mine.safetensors")
    for model in (None, str(tmp_path / "model")):
        subject = open_delta(tmp_path / "mine.safetensors", model)
        assert subject.source == "edit mine.safetensors"
    assert len(subject.delta) == len(open_run(run).delta)


def test_an_edit_of_another_model_is_refused() -> None:
    with pytest.raises(DeltaError):
        Subject(make_chat(seed=1), make_delta(make_chat()), source="test")


def test_a_run_without_an_edit_is_refused(tmp_path: Path) -> None:
    RunRecord(settings=RunSettings()).save(tmp_path)
    with pytest.raises(RunFolderError, match=r"no edit to talk to.*finish pkedit run"):
        open_run(tmp_path)


def test_a_system_message_stays_in_front_of_every_turn() -> None:
    subject = make_subject()
    subject.chat.tokenizer.chat_template = SYSTEM_TEMPLATE
    subject = Subject(subject.chat, make_delta(subject.chat), source="test")
    conversation = talk(subject)
    first = last(conversation.ask("w7"))[Side.BASE]
    assert last(conversation.ask("w8"))[Side.BASE] == plain(subject, f"w7 </s><user> {first} </s><user> w8")


def test_a_copy_is_a_conversation_without_a_word_with_the_same_model() -> None:
    """Gradio copies one for every visitor."""
    subject = make_subject()
    conversation = talk(subject, strength=0.3)
    last(conversation.ask(QUESTION))
    copy = deepcopy(conversation)
    assert copy.exchanges(Side.BASE) == ()
    assert copy.strength == 0.3
    before = last(conversation.ask(QUESTION))
    assert last(copy.ask(QUESTION))[Side.BASE] == plain(subject)
    assert len(conversation.exchanges(Side.BASE)) == 2
    assert before
    assert copy._subject is subject
