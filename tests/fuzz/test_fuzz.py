"""Whatever a file holds, reading it ends soon, and the only error that comes out is one line for its owner.

A fixed budget of examples, the same in every run; `PKEDIT_FUZZ=5000 pytest tests/fuzz` tries so many of each.
"""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

from pkedit.edit.delta import Delta
from pkedit.edit.hooked import HookedDelta
from pkedit.errors import PkeditError
from pkedit.judges.labelled import load_labelled
from pkedit.judges.rules import RuleJudge
from pkedit.locate.region import Region
from pkedit.models.templates import dialogue_ids
from pkedit.prompts.columns import Columns
from pkedit.prompts.loading import load_attacks, load_prompts
from pkedit.prompts.safeedit import load_safeedit
from pkedit.prompts.sources import load_attacks_from, load_prompts_from
from pkedit.prompts.types import Kind
from pkedit.run.record import RunRecord, new_record
from pkedit.settings import RunSettings
from tiny import changed_weights, make_chat, make_region, make_tokenizer, snapshot

EXAMPLES = int(os.environ.get("PKEDIT_FUZZ", "40"))
budget = settings(
    max_examples=EXAMPLES,
    derandomize="PKEDIT_FUZZ" not in os.environ,
    deadline=5_000,
    database=None,
    suppress_health_check=[*HealthCheck],
)

# All of Unicode, and what breaks parsers more often: half pairs, separators, marks, markup, paths.
odd = st.sampled_from(
    ["", "\0", "\ud800", "\u2028", "\u202e", "\ufeff", "\r", "\n", '"', "'", ",", "{question}", "../x", "text", "1"]
)
texts = st.one_of(odd, st.text(st.characters(), max_size=12))
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -1, 0, 2**63, float("nan"), float("inf")]))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
PROMPT_NAMES = st.sampled_from(
    ["text", "id", "category", "topic", "better", "split", "family", "question", "answer", "harmful", "turns",
     "adversarial prompt", "unsafe generation", "safe generation", "generalization test", "knowledge constrain"]
)  # fmt: skip
rows = st.dictionaries(PROMPT_NAMES | texts, values, max_size=6)
junk = st.binary(max_size=60)


def lines(content: list[Any]) -> bytes:
    return b"\n".join(json.dumps(one).encode() for one in content)


jsonl = st.one_of(
    junk,
    st.lists(rows | values, max_size=4).map(lines),
    st.builds(bytes.__add__, st.lists(rows, max_size=2).map(lines), junk),
)
arrays = st.one_of(junk, st.lists(rows | values, max_size=4).map(lambda found: json.dumps(found).encode()))
cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ['"', ",", "\n", "\0", "text", "id"]
)
spreadsheets = st.one_of(
    junk,
    st.lists(st.lists(cells, max_size=4).map(",".join), max_size=5).map(
        lambda found: "\n".join(["text,id", *found]).encode()
    ),
)


def ends_well(act: Callable[[], Any]) -> Any:
    """What it gives, or None where it refused in one line."""
    try:
        return act()
    except PkeditError as error:
        told = str(error)
    assert told
    assert "\n" not in told
    told.encode()
    assert len(told) < 3000
    return None


def read_all(path: Path) -> None:
    """Every loader of prompts, and what comes out can be written and tokenised."""
    found = [
        ends_well(lambda: load_prompts(path, Kind.HARMFUL)),
        ends_well(lambda: load_prompts(path, Kind.HARMLESS, Columns(text="turns.0", category="generalization test.x"))),
        ends_well(lambda: load_prompts(path, Kind.HARMLESS, where={"category": "x"})),
        ends_well(lambda: load_prompts_from(path, Kind.HARMFUL)),
        ends_well(lambda: load_attacks(path)),
        ends_well(lambda: load_attacks_from(path)),
        ends_well(lambda: load_safeedit(path)),
        ends_well(lambda: load_labelled(path)),
    ]
    for one in (one for many in found for one in many or ()):
        repr(one).encode()
        json.dumps(vars(one), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("suffix", "content"), [(".jsonl", jsonl), (".json", arrays), (".csv", spreadsheets), (".tsv", spreadsheets)]
)
def test_files_of_prompts(tmp_path: Path, suffix: str, content: st.SearchStrategy[bytes]) -> None:
    path = tmp_path / f"prompts{suffix}"

    @budget
    @given(content)
    def holds(data: bytes) -> None:
        path.write_bytes(data)
        read_all(path)

    holds()


columns = (
    st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=2, max_size=2)
    | st.lists(st.binary(max_size=6) | st.none(), min_size=2, max_size=2)
    | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2)
    | st.lists(st.datetimes(), min_size=2, max_size=2)
)


def test_parquet_files(tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"

    @budget
    @given(st.dictionaries(PROMPT_NAMES, columns, max_size=4), st.integers(0, 10**6), junk)
    def holds(table: dict[str, list[Any]], at: int, patch: bytes) -> None:
        pq.write_table(pa.table(table), path)
        read_all(path)
        content = bytearray(path.read_bytes())
        at %= len(content)
        content[at : at + len(patch)] = patch
        path.write_bytes(content)
        read_all(path)

    holds()


NAMES = st.sampled_from(
    ["neurons", "write.change", "write.original", "read0.change", "read0.original", "read9.change", "up.change"]
).flatmap(
    lambda part: st.sampled_from(["layers.0", "layers.1", "layers.9", "layers.1.experts.2", ".."]).map(
        f"{{}}.{part}".format
    )
)
tensors = st.one_of(
    st.builds(
        lambda shape, dtype, value: torch.full(shape, value).to(dtype),
        st.sampled_from([[2], [2, 16], [1, 16], [16, 2], [], [0], [0, 16], [2, 16, 1]]),
        st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]),
        st.sampled_from([0.0, 1.0, -1.0, 23.0, 1e30, float("nan"), float("inf")]),
    ),
    st.lists(st.integers(-1, 25) | st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2).map(torch.tensor),
)
headers = st.dictionaries(
    st.sampled_from(["base", "made_for", "extra", "schema_version", "x"]), texts | values.map(json.dumps), max_size=2
)


def _encodable(header: dict[str, str]) -> dict[str, str]:
    return {key: value.encode("utf-8", "replace").decode() for key, value in header.items()}


def test_deltas(tmp_path: Path) -> None:
    path, chat = tmp_path / "delta.safetensors", make_chat()
    before = snapshot(chat.model)
    HookedDelta(chat, make_region({0: [3, 7], 1: [2, 5]}), ("write", "read0")).freeze().save(path)
    with safe_open(path, "pt") as file:
        header = dict(file.metadata())
        honest = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    content = path.read_bytes()
    applied = []

    def act() -> None:
        with Delta.load(path).applied_to(chat):
            applied.append(path)

    changed = st.builds(
        lambda tensors, gone, more: save(
            {name: tensor for name, tensor in {**honest, **tensors}.items() if name != gone},
            {**header, **_encodable(more)},
        ),
        st.dictionaries(NAMES, tensors, max_size=2),
        st.none() | st.sampled_from(sorted(honest)),
        headers,
    )
    patched = st.builds(
        lambda at, patch: content[:at] + patch + content[at + len(patch) :], st.integers(0, len(content)), junk
    )
    framed = st.builds(lambda size, rest: struct.pack("<Q", size) + rest, st.integers(0, 2**64 - 1), junk)

    @budget
    @given(st.one_of(changed, patched, framed, junk))
    def holds(data: bytes) -> None:
        path.write_bytes(data)
        ends_well(act)
        assert changed_weights(chat.model, before) == []

    holds()
    assert applied, "no example was an edit of this model, so that nothing was shown"


NEURON = st.fixed_dictionaries(
    {"layer": st.integers(-1, 5), "index": st.integers(-1, 30), "score": st.floats() | st.integers()},
    optional={"expert": st.none() | st.integers(-1, 3), "ranks": values, "values": values, "x": values},
) | st.dictionaries(st.sampled_from(["layer", "index", "score", "ranks", "values", "expert", "x"]), values, max_size=6)


def test_regions(tmp_path: Path) -> None:
    path = tmp_path / "region.json"
    whole = st.fixed_dictionaries(
        {
            "neurons": st.lists(NEURON, max_size=3) | values,
            "signals": st.just({"pathway": 1.0}) | values,
            "layer_totals": st.just({}) | values,
        },
        optional={"schema_version": values, "layer_weight_change": values, "x": values},
    )

    @budget
    @given(
        st.one_of(
            junk,
            values.map(lambda value: json.dumps(value).encode()),
            whole.map(lambda value: json.dumps(value).encode()),
        )
    )
    def holds(data: bytes) -> None:
        path.write_bytes(data)
        region = ends_well(lambda: Region.load(path))
        if region is not None:
            assert len(region.by_layer()) > 0

    holds()


def test_run_records(tmp_path: Path) -> None:
    new_record(RunSettings()).save(tmp_path)
    path = tmp_path / "run.json"
    honest = json.loads(path.read_text())

    @budget
    @given(st.dictionaries(st.sampled_from([*honest, "x"]), values, max_size=3), junk, st.booleans())
    def holds(changes: dict[str, Any], data: bytes, wholly: bool) -> None:
        path.write_bytes(data if wholly else json.dumps({**honest, **changes}).encode())
        ends_well(lambda: RunRecord.load(tmp_path))

    holds()


EXPRESSIONS = st.sampled_from(
    ["messages", "messages[0]", "messages[0].content", "''.__class__", "range(10**9)", "10**9", "'x' * 10**7", "x",
     "1/0", "namespace(a=1)", "cycler(1)", "dict()", "messages|tojson", "messages|length", "''|attr('format')",
     "lipsum(3)", "self", "loop"]
)  # fmt: skip
pieces = st.one_of(
    EXPRESSIONS.map("{{{{ {} }}}}".format),
    EXPRESSIONS.map("{{% for m in {} %}}{{{{ m }}}}{{% endfor %}}".format),
    st.sampled_from(
        ["{% if messages %}", "{% endif %}", "{%", "}}", "{# ", "{% set x = 1 %}", "{% raw %}", "{% break %}"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)


def test_chat_templates() -> None:
    tokenizer = make_tokenizer()

    @budget
    @given(st.lists(pieces, min_size=1, max_size=5).map("".join), texts.filter(lambda text: "\ud800" not in text))
    def holds(template: str, message: str) -> None:
        tokenizer.chat_template = template
        ends_well(lambda: dialogue_ids(tokenizer, [{"role": "user", "content": message}], name="theirs"))

    holds()


@budget
@given(st.text(st.characters(), max_size=200), st.text(st.characters(), max_size=200))
def test_rules_on_any_text(question: str, answer: str) -> None:
    for harmful in (True, False):
        assert len(RuleJudge().judge([question], [answer], harmful_request=harmful)) == 1
