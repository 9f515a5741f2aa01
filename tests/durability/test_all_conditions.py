"""Every condition is told, has its source, and leaves the model as it came."""

import inspect
from collections.abc import Callable
from functools import partial

import pytest

from pkedit.durability import weights
from pkedit.durability.asking import ask
from pkedit.durability.conditions import CONDITIONS
from pkedit.durability.names import DEFAULT, NAMES
from pkedit.durability.subject import Asked, Subject
from pkedit.judges.rules import RuleJudge
from tiny import changed_weights, leftovers, snapshot

MakeSubject = Callable[..., Subject]
# More steps of the same function.
CHECKED = [name for name in NAMES if name not in ("tuned-200", "tuned-1000")]


def test_every_condition_has_a_name_a_function_and_a_source() -> None:
    assert list(CONDITIONS) == list(NAMES)
    assert set(NAMES) - set(DEFAULT) == {"tuned-200", "tuned-1000", "suffix-attack"}
    assert all(named.label and named.source for named in NAMES.values())
    for function in CONDITIONS.values():
        plain = function.func if isinstance(function, partial) else function
        assert inspect.getdoc(plain)


@pytest.mark.parametrize("name", CHECKED)
def test_a_condition_is_undone_bit_for_bit_also_when_its_body_raises(
    make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda _: None)
    subject = make_subject()
    model = subject.chat.model
    before, modules = snapshot(model), [id(module) for module in model.modules()]
    state = [(one.requires_grad, one.dtype) for one in model.parameters()]
    found = []

    def ask_and_fail(asked: Asked) -> None:
        found.append(ask(asked, subject.ground, [RuleJudge()], arm="pke").metrics)
        raise ZeroDivisionError

    condition = partial(CONDITIONS[name], steps=3) if name == "tuned-50" else CONDITIONS[name]
    with pytest.raises(ZeroDivisionError), condition(subject) as asked:
        ask_and_fail(asked)
    assert changed_weights(model, before) == []
    assert leftovers(model) == []
    assert [id(module) for module in model.modules()] == modules
    assert [(one.requires_grad, one.dtype) for one in model.parameters()] == state
    assert not model.training
    assert not hasattr(model, "peft_config")
    assert found[0]["asr_bare"].n == (1 if name == "suffix-attack" else 3)
    assert ("over_refusal" in found[0]) is (name != "suffix-attack")
