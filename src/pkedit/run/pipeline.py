"""The stages of a run, in order, each finished once: sample, locate, check, edit, explain, measure every arm."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from pkedit.edit.baselines import dinm_settings, fixed_layer, suffixed
from pkedit.edit.delta import Delta
from pkedit.edit.editor import EditResult, StepLosses, edit
from pkedit.edit.strength import Strength
from pkedit.errors import PkeditError, RunFolderError
from pkedit.locate.causal import causal_check
from pkedit.locate.dinm import toxic_layer, whole_layer
from pkedit.locate.locating import locate, pair_dialogues
from pkedit.locate.region import Region, random_region
from pkedit.models.batches import kept_dialogues
from pkedit.models.chat import ChatModel
from pkedit.models.precision import arithmetic
from pkedit.models.read_prompts import ReadPrompts
from pkedit.models.remote_endpoint import is_remote
from pkedit.observer import Observer, Silent
from pkedit.prompts import ContrastPair, Demonstration
from pkedit.run.data import edit_prompts, held_out_prompts, read_targets, sample_targets, target_rows
from pkedit.run.explaining import explain
from pkedit.run.folder import RunFolder
from pkedit.run.left import MEANS
from pkedit.run.measuring import Measuring
from pkedit.run.record import EditRecord, RunRecord
from pkedit.run.stored import read_means, write_means
from pkedit.settings import ARMS, LOCATED, WHOLE, RunSettings

Until = Literal["locate", "edit", "measure"]


def run(
    settings: RunSettings,
    out: str | Path,
    *,
    until: Until = "measure",
    observer: Observer | None = None,
    chat: ChatModel | None = None,
) -> RunRecord:
    """Runs, or resumes, everything that the settings ask for, and returns the record.

    Args:
        settings: what to do.
        out: the run folder.
        until: `locate` and `edit` stop before the later stages; a later call goes on from there.
        observer: told of stages and steps.
        chat: a loaded model; loaded by the settings if absent. Returned unedited.

    Raises:
        PkeditError: whatever the user can mend; see `pkedit.errors`.
    """
    if is_remote(settings.model, settings.api_base):
        raise PkeditError(
            f"{settings.model} is behind an API; without its weights it can only be measured: use pkedit evaluate"
        )
    if settings.engine != "transformers":
        raise PkeditError(f"the engine {settings.engine} can only measure; leave it out, or use pkedit evaluate")
    with RunFolder.open(out, settings) as folder:
        return _Pipeline(folder, settings, observer or Silent(), chat).through(until)


class _Pipeline(Measuring):
    """The stages that make edits, before those that measure them."""

    def __init__(self, folder: RunFolder, settings: RunSettings, observer: Observer, chat: ChatModel | None) -> None:
        super().__init__(folder, settings, observer, chat)
        self._kept: list[Demonstration] = []
        # From sampling to the edit that takes it over.
        self._read: ReadPrompts | None = None

    def through(self, until: Until) -> RunRecord:
        """All stages up to `until`."""
        if until == "measure":
            self.check()
        self._sample()
        wanted = [arm for arm in ARMS if arm in self._settings.arms]
        if until == "locate" or set(LOCATED) & set(wanted):
            self._locate()
            self._check_region()
        if until in ("edit", "measure"):
            for arm in wanted:
                if arm not in ("vanilla", "suffix"):
                    self._edit(arm)
            self._read = None
            if "pke" in wanted:
                self._explain()
        if until == "measure":
            self.measure_arms(wanted)
        self._folder.save()
        return self._folder.record

    def _sample(self) -> None:
        path = self._folder.path / "targets.jsonl"
        prompts = edit_prompts(self._splits, self._settings)
        if not self._folder.finished("sample"):
            chat = self.chat
            if self._heir() is not None:
                self._read = ReadPrompts()
            with self.stage("sample"):
                pairs, kept = sample_targets(chat, prompts, self._settings, self._observer.step, read=self._read)
                self._folder.write_lines(path, target_rows(pairs, kept))
        try:
            self._pairs, self._kept = read_targets(self._folder.read_lines(path), prompts)
        except KeyError as error:
            raise RunFolderError(f"{path}: damaged at {error}; remove the run folder and run again") from None

    def _locate(self) -> None:
        if self._folder.finished("locate"):
            return
        chat = self.chat
        with self.stage("locate"):
            located = locate(
                chat,
                self._pairs,
                self._kept,
                self._settings.locate,
                seed=self._settings.seed,
                progress=self._observer.step,
            )
            located.region.save(self._folder.path / "region.json", layer_weight_change=located.layer_weight_change)
            write_means(self._folder.path / MEANS, located.means)

    def _check_region(self) -> None:
        if self._folder.finished("causal"):
            return
        if not (self._folder.path / MEANS).is_file():
            # Located by an older pkedit, which did not keep them: trace again.
            self._folder.forget("locate")
            self._locate()
        options = self._settings.locate
        harmless = kept_dialogues(self.chat, self._kept[: options.demonstrations], limit=options.tokens)
        bare = [pair for pair in self._pairs if pair.prompt.attack is None][: options.causal_pairs]
        with self.stage("causal"), self.chat.frozen(), arithmetic(self.chat, options.precision, cast_once=True):
            check = causal_check(
                self.chat,
                Region.load(self._folder.path / "region.json"),
                [mean.to(self.chat.device) for mean in read_means(self._folder.path / MEANS)],
                pair_dialogues(self.chat, bare, limit=8),
                sorted(harmless, key=len)[: options.causal_pairs],
                random_regions=options.random_regions,
                first_tokens=options.first_tokens,
                first_weight=options.first_weight,
                tokens_per_batch=options.tokens_per_batch,
                seed=self._settings.seed,
                progress=self._observer.step,
            )
            self._folder.record.causal = {**asdict(check), "beyond_all": check.beyond_all}

    def _edit(self, arm: str) -> None:
        stage = f"edit {arm}"
        if self._folder.finished(stage):
            return
        chat = self.chat
        with self.stage(stage):
            region, settings = self._region(arm), self._settings.edit
            if arm in WHOLE:
                released = self._settings.dinm_as_released and arm == "dinm"
                settings = dinm_settings(settings, as_released=released)
            pairs = self._pairs
            if arm == "dinm" and self._settings.dinm_as_released:
                pairs = [_with_suffix(pair) for pair in pairs]
            held_out = held_out_prompts(self._splits) if self._settings.chooses_strength(arm) else ()
            result = edit(
                chat,
                region,
                pairs,
                self._kept,
                settings,
                held_out=held_out,
                read=self._read_before() if arm == self._heir() else None,
                progress=self._report_losses,
                tried=self._report_strength,
            )
            result.delta.save(self._folder.arm_file(arm, "delta.safetensors"), arm=arm)
            self._folder.record.edits[arm] = _edit_record(result, chat)

    def _heir(self) -> str | None:
        """The arm whose edit takes over what sampling read: the same one whatever other arms there are."""
        if not self._settings.edit.frozen_prompts or self.chat.cannot_reuse is not None:
            return None
        return next((arm for arm in LOCATED if arm in self._settings.arms), None)

    def _read_before(self) -> ReadPrompts:
        """What sampling read. Where that was in an earlier call it is read again just so, for the edit's last bits."""
        if self._read is None:
            self._read = ReadPrompts()
            sample_targets(self.chat, edit_prompts(self._splits, self._settings), self._settings, read=self._read)
        return self._read

    def _explain(self) -> None:
        if self._folder.finished("explain"):
            return
        chat = self.chat
        with self.stage("explain"):
            explain(
                chat,
                Region.load(self._folder.path / "region.json"),
                Delta.load(self._folder.arm_file("pke", "delta.safetensors")),
                self._pairs,
                self._kept,
                self._settings.locate,
                self._folder.path,
                progress=self._observer.step,
            )

    def _region(self, arm: str) -> Region:
        if arm == "dinm":
            # EasyEdit's editor locates on the pairs it edits; a vote over some of them is as stable.
            layer = toxic_layer(
                self.chat,
                self._pairs[: self._settings.locate.pairs],
                limit=self._settings.edit.safe_tokens,
                as_released=self._settings.dinm_as_released,
            )
            return whole_layer(self.chat, layer)
        if arm == "ft":
            return whole_layer(self.chat, fixed_layer(self.chat))
        region = Region.load(self._folder.path / "region.json")
        if arm == "random":
            return random_region(region, self.chat.sizes, seed=self._settings.seed + 1000)
        return region

    def _report_losses(self, losses: StepLosses, steps: int) -> None:
        note = f"safe {losses.safe:.2f}  unsafe {losses.unsafe:.2f}  harmless KL {losses.harmless:.3f}"
        self._observer.step(losses.step + 1, steps, note)

    def _report_strength(self, count: int, last: Strength) -> None:
        # How many it takes shows as it goes: a total of 0 is one that is not known.
        self._observer.step(count, 0, f"strength {last.factor:.2f} leaves {100 * last.held_out_asr:.0f} % harmful")


def _edit_record(result: EditResult, chat: ChatModel) -> EditRecord:
    return EditRecord(
        neurons=len(result.delta),
        share_of_neurons=len(result.delta) / chat.neurons,
        parameters=result.delta.parameters,
        layers=sorted({layer.layer for layer in result.delta.layers}),
        stopped_early=result.stopped_early,
        strength=None if result.strength is None else result.strength.factor,
        held_out_asr=None if result.strength is None else result.strength.held_out_asr,
        prompts_not_frozen=result.prompts_not_frozen,
        history=[asdict(losses) for losses in result.history],
    )


def _with_suffix(pair: ContrastPair) -> ContrastPair:
    return replace(pair, prompt=replace(pair.prompt, text=suffixed(pair.prompt.text)))
