"""`pkedit stream`: finds a prompt that fails, edits on it, finds the next; measures now and then; takes edits out.

A stream that was killed goes on behind its last edit. What is left out of it later leaves the base with the others.
"""

import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from pkedit.edit.delta import Delta
from pkedit.edit.refusals import natural_refusals
from pkedit.errors import NonFiniteLossError, NonFiniteStatesError, PkeditError
from pkedit.evaluate.stats import Metric
from pkedit.judges.base import Judge, Judgement
from pkedit.judges.choose import JudgeOptions, make_judges
from pkedit.models.chat import ChatModel
from pkedit.models.memory import give_back_freed_memory
from pkedit.models.precision import arithmetic
from pkedit.models.remote_endpoint import is_remote
from pkedit.observer import Observer, Silent
from pkedit.prompts import ContrastPair, Demonstration, Kind, Prompt, builtin_refusals, contrast_pairs
from pkedit.run.data import OPENING_TOKENS, EditPrompts, edit_prompts, read_splits, read_targets, target_rows
from pkedit.run.model import load_by
from pkedit.run.record import write_atomically
from pkedit.run.safeedit.table import recorded
from pkedit.stream.chart import stream_chart
from pkedit.stream.fixing import Fix, Fixer
from pkedit.stream.folder import KEPT, StreamFolder
from pkedit.stream.instances import Failure, answers_to, in_order, next_failure, next_prompt, without_edited
from pkedit.stream.measuring import StreamMeter
from pkedit.stream.record import Diverged, Measured, StreamEdit, StreamRecord
from pkedit.stream.settings import StreamSettings
from pkedit.stream.sums import largest_change, nothing

CHART = "stream.svg"
Told = Callable[[StreamRecord, Measured], None]


def run_stream(
    settings: StreamSettings,
    out: str | Path,
    *,
    observer: Observer | None = None,
    told: Told | None = None,
    chat: ChatModel | None = None,
) -> StreamRecord:
    """Makes edits until there are `settings.edits`, those of earlier calls in the folder included, and measures.

    Args:
        settings: what to do.
        out: the folder; afterwards it holds `index.json`, `edits/`, `measured/`, `delta.safetensors`, `stream.svg`.
        observer: told of stages and steps.
        told: called after each measurement.
        chat: a loaded model; loaded by the settings if absent. Returned unedited.

    Raises:
        PkeditError: whatever the user can mend; see `pkedit.errors`.
    """
    judges = _judges(settings)
    with StreamFolder.open(Path(out), settings) as folder:
        record = folder.record
        if _left(record) or record.found(len(record.edits), record.without) is None:
            _Stream(folder, judges, observer or Silent(), told, chat).go_on()
        _finish(folder)
        return record


def take_out(
    out: str | Path,
    numbers: Sequence[int],
    *,
    trust_remote_code: bool = False,
    observer: Observer | None = None,
    told: Told | None = None,
    chat: ChatModel | None = None,
) -> StreamRecord:
    """Leaves these edits, and no others, out of a stream's model, and measures it.

    Args:
        out: the folder of a stream.
        numbers: of the edits; none puts all of them back.
        trust_remote_code: whether code that the model brings with it may run; what the stream was told does not count.
        observer: told of stages and steps.
        told: called after the measurement.
        chat: a loaded model; loaded by the stream's settings if absent. Returned unedited.

    Raises:
        PkeditError: there is no such edit, or whatever else the user can mend.
    """
    with StreamFolder.open_finished(Path(out), numbers) as folder:
        folder.take_out(numbers)
        record = folder.record
        if record.found(len(record.edits), record.without) is None:
            observer = observer or Silent()
            if chat is None:
                observer.stage("load")
                chat = load_by(record.settings.as_run(), trust_remote_code=trust_remote_code)
            _Stream(folder, _judges(record.settings), observer, told, chat).measure()
        _finish(folder)
        return record


class _Stream:
    """The loaded model, and what all edits and measurements share."""

    def __init__(
        self,
        folder: StreamFolder,
        judges: Sequence[Judge],
        observer: Observer,
        told: Told | None,
        chat: ChatModel | None,
    ) -> None:
        self._folder, self._record, self._judges = folder, folder.record, judges
        self._observer, self._told = observer, told
        settings = self._settings = folder.record.settings
        self._splits = read_splits(settings.as_run())
        # Read before anything takes time: the file may be malformed.
        self._prompts = in_order(self._splits.edit, settings)
        test = self._splits.test if settings.questions is None else without_edited(self._splits.test, self._prompts)
        if chat is None:
            observer.stage("load")
            chat = load_by(settings.as_run())
        self._chat = chat
        self._record.model_note = chat.reason
        self._record.left_out = len(self._splits.test.harmful) - len(test.harmful)
        self._total = folder.total(nothing(chat), self._record.numbers)
        self._total.check(chat)
        self._meter = StreamMeter(chat, test, judges, settings)
        if self._record.found(0, []) is None:
            self._measure(0, [], nothing(chat))
        self._meter.begin_drift(self._harmless_answers())
        self._fixer: Fixer | None = None

    def go_on(self) -> None:
        """Makes the edits that are left, measuring between them, and measures the model as it then is."""
        record, every = self._record, self._settings.every
        self._folder.drop_total()
        if _left(record):
            self._fixer = Fixer(self._chat, self._kept(), self._settings)
        while _left(record):
            if len(record.edits) % every == 0:
                self.measure()
            begun = len(record.edits)
            until = min((begun // every + 1) * every, self._settings.edits)
            self._observer.stage(f"edit {begun + 1} to {until}")
            while len(record.edits) < until and not record.exhausted:
                self._edit_next()
                self._observer.step(len(record.edits) - begun, until - begun, _note(record))
        self.measure()

    def measure(self) -> None:
        """Measures the model with the edits that are in it, if that was not done before."""
        if self._record.found(len(self._record.edits), self._record.without) is None:
            self._measure(len(self._record.edits), self._record.without, self._total)

    def _measure(self, edits: int, without: list[int], total: Delta) -> None:
        out = f", {len(without)} of them out" if without else ""
        self._observer.stage(f"measure after {edits} edits{out}")
        began = time.perf_counter()
        edited = {one.number: _prompt_of(one) for one in self._record.edits[:edits]}
        with total.applied_to(self._chat):
            found = self._meter.ask(edited, [one for one in edited if one not in without], self._observer.step)
            metrics = {**found.metrics, "kl": self._meter.drift()} if edits else found.metrics
        measured = Measured(
            edits=edits,
            without=without,
            metrics=recorded(metrics),
            held=found.held,
            lost=found.lost,
            seconds=round(time.perf_counter() - began, 2),
            file=measured_file(edits, without),
        )
        self._folder.keep_measured(measured, found.responses)
        give_back_freed_memory()
        if self._told is not None:
            self._told(self._record, measured)

    def _edit_next(self) -> None:
        """Edits on the next prompt, by default the next that fails, or finds that there is none."""
        began, record, chat = time.perf_counter(), self._record, self._chat
        where = (chat, self._prompts, record.place, self._judges[0], self._settings)
        # Where failures have become rare, more prompts are asked together.
        at_once = 2 + (record.edits[-1].passed_over if record.edits else 0)
        with self._total.applied_to(chat):
            failure = next_prompt(*where) if self._settings.every_prompt else next_failure(*where, at_once=at_once)
        if failure is None:
            record.exhausted = True
            self._folder.save()
            return
        record.place = failure.place + 1
        number = len(record.edits) + 1
        refusal = record.refusals[(number - 1) % len(record.refusals)]
        (pair,) = contrast_pairs([failure.prompt], [refusal], [failure.answer])
        assert self._fixer is not None
        try:
            fix = self._fixer.fix(pair, self._total, lambda edits: self._refuses(pair.prompt, edits))
            total = self._total + fix.delta
            with total.applied_to(chat):
                kl = self._meter.drift() if number % self._settings.drift_every == 0 else None
        except (NonFiniteLossError, NonFiniteStatesError) as error:
            record.diverged.append(
                Diverged(prompt_id=failure.prompt.id, after=len(record.edits), reason=str(error).split(";")[0])
            )
            self._folder.save()
            return
        self._total = total
        self._folder.keep(_entry(number, pair, failure, fix, total, kl, time.perf_counter() - began), fix.delta)
        give_back_freed_memory()

    def _refuses(self, prompt: Prompt, edits: Delta) -> bool:
        """Whether the model with these edits refuses a prompt."""
        with edits.applied_to(self._chat):
            (one,) = answers_to(self._chat, [prompt], self._judges[0], self._settings)
        return one.judgement() is Judgement.REFUSED

    def _kept(self) -> list[Demonstration]:
        """The harmless answers that all edits keep, and the refusals that come most naturally: sampled once."""
        record, settings, chat = self._record, self._settings, self._chat
        safe = edit_prompts(self._splits, settings.as_run()).safe
        if not record.refusals:
            self._observer.stage("sample")
            with arithmetic(chat, settings.edit.precision):
                answers = chat.generate(
                    [prompt.conversation for prompt in safe],
                    max_new_tokens=max(settings.edit.harmless_tokens, settings.locate.tokens),
                    batch_size=settings.batch_size,
                    progress=self._observer.step,
                )
            kept = [Demonstration(prompt, answer) for prompt, answer in zip(safe, answers, strict=True) if answer]
            bare = self._splits.edit.harmful[:4]
            record.refusals = natural_refusals(chat, builtin_refusals(), bare, opening_tokens=OPENING_TOKENS)
            record.kept_sha256 = self._folder.write_lines(KEPT, target_rows([], kept))
            self._folder.save()
        return read_targets(self._folder.read_kept(), EditPrompts((), safe))[1]

    def _harmless_answers(self) -> dict[str, str]:
        """What the unedited model answered to the harmless prompts that are measured, by their id."""
        first = self._record.found(0, [])
        assert first is not None
        rows = self._folder.read_lines(first.file)
        return {row["prompt_id"]: row["answer"] for row in rows if row["group"] == Kind.HARMLESS.value}


def measured_file(edits: int, without: Sequence[int]) -> str:
    """Where the answers of a measurement are: `measured/0020.jsonl`; of what is out, a short sum makes the name."""
    out = f"-{zlib.crc32(repr(list(without)).encode()):08x}" if without else ""
    return f"measured/{edits:04}{out}.jsonl"


def _judges(settings: StreamSettings) -> list[Judge]:
    """Finds now what would only be found after the model is loaded.

    Raises:
        PkeditError: a judge cannot be had, or the first knows no refusals; or there are no weights to edit.
    """
    if is_remote(settings.model, None):
        raise PkeditError(f"{settings.model} is behind an API; without its weights there is nothing to edit")
    if any(name.startswith("remote:") for name in settings.judges):
        raise PkeditError(
            "a stream asks its judges after every edit, which would cost too much of a remote one; "
            "give --judges rules, embedded or guard:MODEL"
        )
    judges = make_judges(settings.judges, JudgeOptions(device=settings.device))
    if not judges[0].tells_refusals:
        raise PkeditError(
            f"whether fixes hold cannot be measured: {judges[0].name} cannot say what a refusal is; put rules first "
            "in --judges"
        )
    return judges


def _left(record: StreamRecord) -> bool:
    return not record.exhausted and len(record.edits) < record.settings.edits


def _note(record: StreamRecord) -> str:
    known = [one.kl for one in record.edits if one.kl is not None]
    return f"KL {known[-1].value:.3f} nats" if known else ""


def _prompt_of(edit: StreamEdit) -> Prompt:
    return Prompt(
        id=edit.prompt_id,
        question=edit.question,
        text=edit.prompt,
        kind=Kind.HARMFUL,
        category=edit.category,
        attack=edit.attack,
    )


def _entry(
    number: int, pair: ContrastPair, failure: Failure, fix: Fix, total: Delta, kl: Metric | None, seconds: float
) -> StreamEdit:
    prompt = pair.prompt
    return StreamEdit(
        number=number,
        prompt_id=prompt.id,
        question=prompt.question,
        prompt=prompt.text,
        category=prompt.category,
        attack=prompt.attack,
        safe=pair.safe,
        unsafe=pair.unsafe,
        passed_over=failure.passed_over,
        steps=fix.steps,
        met=fix.met,
        strength=fix.strength,
        neurons=len(fix.delta),
        layers=[layer.layer for layer in fix.delta.layers],
        largest=round(largest_change(total), 4),
        kl=None if kl is None else recorded({"kl": kl})["kl"],
        seconds=round(seconds, 2),
        file=f"edits/{number:04}.safetensors",
    )


def _finish(folder: StreamFolder) -> None:
    """What is made of the whole stream: the sum of its edits, and the chart."""
    folder.write_total(Delta(()))
    write_atomically(folder.path / CHART, stream_chart(folder.record))
