"""What the figures of a run are called and what they say, in the same words wherever they are shown. No torch."""

import re
from dataclasses import dataclass, replace

from pkedit.run.record import RecordedComparison, RecordedMetric, RunRecord

ARM_NAMES = {
    "vanilla": "the model as it is",
    "suffix": "refusal suffix in the prompt, no edit",
    "dinm": "DINM: one located layer",
    "ft": "fine-tuning of one fixed layer",
    "random": "random neurons, same budget",
    "pke": "PKE: the located region",
}


def arm_name(record: RunRecord, arm: str) -> str:
    """What an arm is, in words."""
    if arm == "pke" and record.settings.delta is not None:
        return "the given delta"
    if arm == "pke" and record.settings.adapter is not None:
        return "the given adapter"
    return ARM_NAMES.get(arm, arm)


@dataclass(frozen=True)
class MetricText:
    """How a metric is shown. `better` is `lower`, `higher` or, where neither can be said, empty."""

    label: str
    better: str
    percent: bool
    digits: int
    meaning: str

    def number(self, value: float, *, sign: bool = False) -> str:
        """The value in the unit of the column."""
        return format(value * (100 if self.percent else 1), f"{'+' if sign else ''}.{self.digits}f").replace("-", "−")


METRICS = {
    "asr": MetricText("ASR %", "lower", True, 1, "harmful answers to unseen questions in unseen attacks"),
    "asr_bare": MetricText("ASR bare %", "lower", True, 1, "harmful answers to unseen questions without an attack"),
    "over_refusal": MetricText("Over-refusal %", "lower", True, 1, "refusals of everyday prompts"),
    "long_refusal": MetricText("Long refusal %", "lower", True, 1, "refusals of everyday prompts of many lines"),
    "borderline_refusal": MetricText(
        "Borderline refusal %", "lower", True, 1, "refusals of safe prompts that look bad"
    ),
    "kl": MetricText("KL nats", "lower", False, 3, "KL(original ‖ arm) per token of the original's harmless answers"),
    "perplexity": MetricText("Perplexity", "lower", False, 2, "perplexity of the original's harmless answers"),
    "rouge_l": MetricText("ROUGE-L", "higher", False, 3, "overlap of harmless answers with the original's"),
    "fluency": MetricText("Fluency", "", False, 2, "n-gram entropy of harmless answers, in bits"),
    "capability": MetricText("Capability %", "higher", True, 1, "multiple-choice questions answered rightly"),
    "win_rate": MetricText(
        "Win rate %", "higher", True, 1, "preferred to the original's harmless answers, at equal length; 50 is a tie"
    ),
    "win_rate_raw": MetricText("Win rate, raw %", "higher", True, 1, "the same without regard to length"),
    "incoherent": MetricText("Incoherent %", "lower", True, 1, "empty or babbling answers, of all prompts"),
    "ds": MetricText("DS %", "higher", True, 1, "defended: edited questions in edited attacks"),
    "dg_only_q": MetricText("DG onlyQ %", "higher", True, 1, "defended: edited questions, bare"),
    "dg_other_a": MetricText("DG otherA %", "higher", True, 1, "defended: edited questions in unseen attacks"),
    "dg_other_q": MetricText("DG otherQ %", "higher", True, 1, "defended: unseen questions in edited attacks"),
    "dg_other_aq": MetricText("DG otherAQ %", "higher", True, 1, "defended: unseen questions in unseen attacks"),
}


def metric_text(name: str) -> MetricText:
    """The text of a metric; `asr:JUDGE` and `capability:TASK` are told as the metric with what follows.

    One that is not in the list is shown by its name.
    """
    if name in METRICS:
        return METRICS[name]
    base, _, of = name.partition(":")
    if base not in METRICS:
        return MetricText(name, "", False, 3, "")
    by = of if base == "capability" else f"by {of}"
    label = METRICS[base].label
    return replace(METRICS[base], label=f"{label.removesuffix(' %')} {by}{' %' if label.endswith(' %') else ''}")


def measured_metrics(record: RunRecord) -> list[str]:
    """The metrics that any arm has, in the order of `METRICS`, those of one name together, unknown ones last."""
    present = {name for metrics in record.metrics.values() for name in metrics}
    order = list(METRICS)

    def place(name: str) -> tuple[int, str]:
        base = name.partition(":")[0]
        return (order.index(base) if base in order else len(order), name)

    return sorted(present, key=place)


def shared_count(record: RunRecord, name: str) -> int | None:
    """n of a metric, where it is the same for every arm; it then stands in the heading."""
    counts = {metrics[name].n for metrics in record.metrics.values() if name in metrics}
    return counts.pop() if len(counts) == 1 else None


def interval(name: str, metric: RecordedMetric, *, sign: bool = False) -> str:
    """The 95 % interval, or a dash where one observation gives none."""
    text = metric_text(name)
    if metric.low is None or metric.high is None:
        return "–"
    return f"{text.number(metric.low, sign=sign)} to {text.number(metric.high, sign=sign)}"


def with_interval(name: str, metric: RecordedMetric) -> str:
    """Value, unit, interval and n in one phrase."""
    unit = " %" if metric_text(name).percent else ""
    return f"{metric_text(name).number(metric.value)}{unit} ({interval(name, metric)}, n = {metric.n})"


def edited_arm(record: RunRecord) -> str | None:
    """The arm that the verdict is about: PKE, or else the last other one that was measured."""
    others = [arm for arm in record.metrics if arm != "vanilla"]
    return "pke" if "pke" in others else others[-1] if others else None


def comparison(record: RunRecord, metric: str, arm: str, against: str) -> RecordedComparison | None:
    """The recorded paired difference `arm` − `against`, if there is one."""
    rows = (row for row in record.comparisons if (row.metric, row.arm, row.against) == (metric, arm, against))
    return next(rows, None)


def settled(row: RecordedComparison) -> bool:
    """Whether the interval of the difference leaves zero out."""
    low, high = row.difference.low, row.difference.high
    return low is not None and high is not None and (low > 0 or high < 0)


def verdict(record: RunRecord) -> list[str]:
    """What the run found, in sentences with figures, costs beside gains."""
    before = record.metrics.get("vanilla", {})
    arm = edited_arm(record)
    if "asr" not in before:
        return ["Nothing has been measured yet."]
    if arm is None:
        return [
            f"The unedited model answers {with_interval('asr', before['asr'])} of the attacks harmfully"
            + _clause(before, "over_refusal", "and refuses {} of everyday prompts")
            + "."
        ]
    after = record.metrics[arm]
    sentences = [outcome_sentence(record, arm), _attacks(record, before, after, arm), _costs(record, before, after)]
    if arm == "pke" and "random" in record.metrics:
        sentences.append(_beside_random(record))
    return [sentence for sentence in sentences if sentence]


def headline(record: RunRecord) -> str:
    """The verdict in one sentence with its figures, costs beside gains; intervals stand beside them elsewhere."""
    arm = edited_arm(record)
    before = record.metrics.get("vanilla", {})
    after = record.metrics.get(arm or "", {})
    if arm is None or "asr" not in before or "asr" not in after:
        return verdict(record)[0]
    found = record.verdicts.get(arm)
    outcome = found.outcome if found is not None and found.outcome is not None else "no verdict"
    parts = [
        f"{what} from {_figure(name, before[name])} to {_figure(name, after[name])}"
        for name, what in (
            ("asr", "harmful answers to attacks went"),
            ("over_refusal", "refusals of everyday prompts"),
            ("long_refusal", "of long ones"),
            ("borderline_refusal", "of borderline ones"),
            ("capability", "questions answered rightly"),
        )
        if name in before and name in after
    ]
    if "kl" in after:
        parts.append(f"and KL to the original is {metric_text('kl').number(after['kl'].value)} nats a token")
    name = arm_name(record, arm).partition(":")[0]
    return f"{outcome[0].upper()}{outcome[1:]}: with {name}, {', '.join(parts)}."


def _figure(name: str, metric: RecordedMetric) -> str:
    text = metric_text(name)
    return f"{text.number(metric.value)}\u00a0%" if text.percent else text.number(metric.value)


def outcome_sentence(record: RunRecord, arm: str) -> str:
    """What an arm is, by the thresholds of `pkedit.evaluate.verdicts`, and why."""
    found = record.verdicts.get(arm)
    if found is None:
        return ""
    return f"Verdict on {arm}: {found.outcome or 'none'} ({'; '.join(_in_words(reason) for reason in found.reasons)})."


def unjudged_sentences(record: RunRecord) -> list[str]:
    """How many answers of each arm each judge gave no verdict on."""
    sentences = []
    for judge in record.judges:
        counts = {arm: own[judge.name] for arm, own in record.unjudged.items() if judge.name in own}
        if counts:
            told = ", ".join(f"{count} of {arm}" for arm, count in counts.items())
            sentences.append(f"Unjudged by {judge.name}, and left out of its rates: {told}.")
    return sentences


def judge_sentences(record: RunRecord) -> list[str]:
    """How far each judge agrees with people, and what it left unjudged."""
    sentences = []
    for judge in record.judges:
        if judge.agreement is None:
            sentences.append(f"How far {judge.name} agrees with people has not been measured for this version.")
            continue
        shares = []
        for row in judge.agreement["measured"]:
            part = "whole answers" if row["cut"] is None else f"their first {row['cut']} characters"
            accuracy = row["accuracy"]
            limits = f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f}, n = {accuracy['n']}"
            shares.append(f"{100 * accuracy['value']:.1f} % ({limits}) of {part}")
        sentences.append(f"Judge {judge.name} agrees with people on {' and '.join(shares)}.")
    return [*sentences, *unjudged_sentences(record)]


def _in_words(reason: str) -> str:
    """A reason with the metrics' labels in place of their names."""
    for name, text in METRICS.items():
        reason = re.sub(rf"\b{name}\b", text.label.removesuffix(" %"), reason)
    return reason


def usage_sentences(record: RunRecord) -> list[str]:
    """What each remote model cost, and what is missing."""
    sentences = []
    for name, usage in record.usage.items():
        dollars = "at a price that is not known" if usage.dollars is None else f"${usage.dollars:.2f} at list price"
        at_least = "at least " if usage.unmetered else ""
        sentences.append(
            f"{name}: {usage.sent} requests sent, {usage.from_cache} answers from the cache, {usage.failed} without an "
            f"answer (unjudged); {at_least}{usage.prompt_tokens} prompt and {usage.completion_tokens} answer tokens, "
            f"{dollars}."
        )
    return sentences


def strength_sentence(record: RunRecord) -> str | None:
    """What each edit was multiplied by, and what that leaves on the prompts on which it was chosen."""
    scaled = [
        f"{arm} {edit.strength:.2f}, which leaves {100 * edit.held_out_asr:.1f} %"
        for arm, edit in record.edits.items()
        if edit.strength is not None and edit.held_out_asr is not None
    ]
    if not scaled:
        return None
    return (
        "Strength, the multiple of the edit that is used, and what it leaves of harmful answers to prompts held out "
        f"from training: {'; '.join(scaled)}."
    )


def causal_sentence(record: RunRecord) -> str | None:
    """What the causal check found; a region no better than random ones is said to be so."""
    check = record.causal
    if check is None:
        return None
    others = [float(value) for value in check["random"]]
    beaten = sum(check["effect"] > value for value in others)
    effect, mean, most = (
        f"{value:.3f}".replace("-", "−") for value in (check["effect"], sum(others) / len(others), max(others))
    )
    figures = (
        f"Holding the region at its harmless mean lowers the preference for unsafe answers by {effect} nats; "
        f"{len(others)} random regions with as many neurons per layer lower it by {mean} on average and {most} at most"
    )
    if check["beyond_all"]:
        return f"{figures}: the region has more effect than every random one."
    return f"{figures}. The region is no better than random: only {beaten} of {len(others)} have less effect."


def _attacks(record: RunRecord, before: dict[str, RecordedMetric], after: dict[str, RecordedMetric], arm: str) -> str:
    if "asr" not in after:
        return ""
    row = comparison(record, "asr", arm, "vanilla")
    text = (
        f"Attacks answered harmfully: {with_interval('asr', before['asr'])} before, "
        f"{with_interval('asr', after['asr'])} with {arm_name(record, arm)}"
    )
    if row is None:
        return f"{text}."
    change = f"{metric_text('asr').number(row.difference.value, sign=True)} points"
    limits = interval("asr", row.difference, sign=True)
    if not settled(row):
        return f"{text}. The paired difference of {change} ({limits}) is compatible with no change at all."
    return f"{text}; the paired difference is {change} ({limits})."


def _costs(record: RunRecord, before: dict[str, RecordedMetric], after: dict[str, RecordedMetric]) -> str:
    parts = [
        f"{what} {with_interval(name, before[name])} before, {with_interval(name, after[name])} after"
        for name, what in (
            ("over_refusal", "everyday prompts refused"),
            ("long_refusal", "long ones"),
            ("borderline_refusal", "borderline ones"),
        )
        if name in before and name in after
    ]
    if "capability" in before and "capability" in after:
        right = [with_interval("capability", metrics["capability"]) for metrics in (before, after)]
        task = next(iter(record.settings.evaluate.capability), "")
        what = (
            "everyday questions answered rightly" if task in ("", "everyday") else f"items of {task} answered rightly"
        )
        parts.append(f"{what} {right[0]} before, {right[1]} after")
    if "rouge_l" in after:
        parts.append(f"ROUGE-L of harmless answers to the original's {with_interval('rouge_l', after['rouge_l'])}")
    if "win_rate" in after:
        parts.append(f"win rate against the original {with_interval('win_rate', after['win_rate'])}")
    if "kl" in after:
        parts.append(f"KL to the original on harmless answers {with_interval('kl', after['kl'])} nats per token")
    return f"The cost: {'; '.join(parts)}." if parts else "The cost was not measured."


def _beside_random(record: RunRecord) -> str:
    row = comparison(record, "asr", "random", "pke")
    if row is None:
        return ""
    figures = (
        f"random − PKE {metric_text('asr').number(row.difference.value, sign=True)} points of ASR, "
        f"{interval('asr', row.difference, sign=True)}"
    )
    if not settled(row):
        return f"On these attacks the located region is not shown to be better than random neurons ({figures})."
    if row.difference.value > 0:
        return f"Random neurons trained with the same budget leave more attacks through ({figures})."
    return f"Random neurons trained with the same budget do better than the located region ({figures})."


def _clause(metrics: dict[str, RecordedMetric], name: str, text: str) -> str:
    return f", {text.format(with_interval(name, metrics[name]))}" if name in metrics else ""
