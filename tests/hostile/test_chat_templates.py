"""A chat template is a stranger's program: it is rendered in a sandbox, within limits, in a process beside."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pkedit.errors import ChatTemplateError
from pkedit.models import rendering
from pkedit.models.rendering import render
from pkedit.models.templates import read_template, templated_ids
from tiny import TEMPLATE, make_tokenizer

LIMIT = 0.3
ASKED = [{"role": "user", "content": "w1 w2"}]


@pytest.fixture(scope="module", autouse=True)
def renderer() -> Iterator[Any]:
    """One renderer with a short time limit for all of them: starting it takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "SECONDS", LIMIT)
        own = rendering._Renderer()
        patch.setattr(rendering, "_renderer", lambda: own)
        yield own
        own.close()


def refusal(template: str) -> str:
    with pytest.raises(ChatTemplateError) as told:
        templated_ids(make_tokenizer(chat_template=template), "w1 w2", name="theirs")
    said = str(told.value)
    assert "\n" not in said
    assert "chat template of theirs" in said
    assert "--chat-template" in said
    return said


def test_an_honest_template_is_rendered_as_transformers_renders_it() -> None:
    tokenizer = make_tokenizer(chat_template=TEMPLATE + "{{ strftime_now('%Y') }}{{ messages|tojson }}")
    own = render(tokenizer, ASKED, name="theirs")
    assert own == tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)
    left_open = [*ASKED, {"role": "assistant", "content": "w3"}]
    own = render(tokenizer, left_open, name="theirs", add_generation_prompt=False, continue_final_message=True)
    assert own == tokenizer.apply_chat_template(left_open, continue_final_message=True, tokenize=False)


def test_a_template_that_loops_is_stopped_and_the_next_one_answered(renderer: Any) -> None:
    started = time.perf_counter()
    said = refusal("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    assert "did not end within 0.3 seconds" in said
    assert time.perf_counter() - started < 8
    assert render(make_tokenizer(), ASKED, name="ours").startswith("<s><user> w1 w2")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ lipsum.__globals__['os'].popen('id').read() }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os }}", "unsafe"),
        ("{{ namespace.__init__.__globals__ }}", "unsafe"),
        ("{{ dict.__init__.__globals__ }}", "unsafe"),
        ("{{ (messages|attr('__class__')).__mro__ }}", "unsafe"),
        ("{{ '{0.__class__.__mro__}'.format(messages) }}", "unsafe"),
        ("{% set _ = messages.append(1) %}", "unsafe|not safely callable"),
        ("{{ 'x' * 10**10 }}", "more memory"),
        ("{{ 'x' * 5000000 }}", "5,000,000 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ raise_exception('no\nway') }}", "no way"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ messages[0", "TemplateSyntaxError"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ '\\ud800' }}", "surrogate"),
    ],
)
def test_a_template_that_reaches_out_or_floods_is_one_line(template: str, said: str) -> None:
    told = refusal(template)
    assert any(part in told for part in said.split("|")), told


def test_what_may_not_be_reached_shows_nothing() -> None:
    for template in ("{{ messages.__class__ }}", "{{ '{0.__class__}'.format(messages) }}", "{{ ''.__doc__ }}"):
        tokenizer = make_tokenizer(chat_template=f"{template}{{# messages #}}")
        assert render(tokenizer, ASKED, name="theirs") == ""


def test_the_process_beside_has_no_keys_and_goes_with_its_owner(renderer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    render(make_tokenizer(), ASKED, name="ours")
    process = psutil.Process(renderer._process.pid)
    assert "OPENAI_API_KEY" in os.environ
    assert "OPENAI_API_KEY" not in process.environ()
    renderer.close()
    assert not process.is_running()


def test_an_interrupted_answer_is_not_taken_for_the_next_ones(renderer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    render(make_tokenizer(), ASKED, name="ours")
    stdout = renderer._process.stdout

    class Interrupted:
        closed = False

        def readline(self) -> bytes:
            raise KeyboardInterrupt

        def close(self) -> None:
            stdout.close()

    monkeypatch.setattr(renderer._process, "stdout", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        render(make_tokenizer(), [{"role": "user", "content": "w7"}], name="ours")
    assert "w1 w2" in render(make_tokenizer(), ASKED, name="ours")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"-----BEGIN KEY-----", "no messages"),
        (b"\xff\xfe{{ messages }}", "not a text file"),
        (b"{{ messages }}" * 100_000, "more than 1 MiB"),
    ],
    ids=["another file", "not UTF-8", "huge"],
)
def test_a_file_that_is_no_chat_template_is_not_taken_for_one(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "template.jinja").write_bytes(content)
    with pytest.raises(ChatTemplateError, match=said):
        read_template(tmp_path / "template.jinja")
