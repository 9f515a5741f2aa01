"""The named suites: where each public prompt set lies, at which revision, and how its columns are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pkedit.errors import PromptFileError
from pkedit.prompts.columns import Columns
from pkedit.prompts.fetching import PublicFile, fetch
from pkedit.prompts.loading import load_attacks, load_prompts
from pkedit.prompts.safeedit import load_safeedit_prompts
from pkedit.prompts.types import Attack, Kind, Prompt

ATTACKS = "attacks"


@dataclass(frozen=True)
class Preset:
    """One public set. `holds` is the kind of its prompts, or `ATTACKS`.

    Of a file that mixes kinds, only the rows whose columns have the values in `where` are taken.
    """

    holds: Kind | str
    file: PublicFile
    licence: str
    about: str
    columns: Columns = field(default_factory=Columns)
    where: Mapping[str, str] = field(default_factory=dict)
    safeedit: bool = False


def _hub(repository: str, file: str, revision: str, *, gated: bool = False) -> PublicFile:
    return PublicFile(host="hub", repository=repository, path=file, revision=revision, gated=gated)


# The revisions are commits, so a set does not change under a comparison.
_ONE_FILE = "data/train-00000-of-00001.parquet"
_JAILBREAKBENCH = ("JailbreakBench/JBB-Behaviors", "886acc352a31533ffbcf4ef22c744658688086fc")
_XSTEST = _hub("walledai/XSTest", _ONE_FILE, "f1d713187c61b6ae64e602d74f0b3d812cc2e8e8", gated=True)
_OR_BENCH = ("bench-llm/or-bench", "e36d8b80e81837c8a8f264bbb2a49f1b32c7e272")

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "advbench": Preset(
            holds=Kind.HARMFUL,
            file=_hub("walledai/AdvBench", _ONE_FILE, "9d4730540082fa4017450b65ca1c0e1d8d30446e", gated=True),
            licence="MIT",
            about="AdvBench's 520 harmful behaviours (Zou et al. 2023)",
            columns=Columns(text="prompt"),
        ),
        "harmbench": Preset(
            holds=Kind.HARMFUL,
            # Contextual behaviours need a text beside them, and copyright ones a judge of their own.
            file=_hub(
                "walledai/HarmBench",
                "standard/train-00000-of-00001.parquet",
                "71c5e5411366e2ffff9b3a55fc47493d3aa56dfb",
                gated=True,
            ),
            licence="MIT",
            about="HarmBench's 200 standard behaviours (Mazeika et al. 2024)",
            columns=Columns(text="prompt"),
        ),
        "jailbreakbench": Preset(
            holds=Kind.HARMFUL,
            file=_hub(_JAILBREAKBENCH[0], "data/harmful-behaviors.csv", _JAILBREAKBENCH[1]),
            licence="MIT",
            about="JailbreakBench's 100 harmful behaviours (Chao et al. 2024)",
            columns=Columns(text="Goal", category="Category"),
        ),
        "jailbreakbench-benign": Preset(
            holds=Kind.BORDERLINE,
            file=_hub(_JAILBREAKBENCH[0], "data/benign-behaviors.csv", _JAILBREAKBENCH[1]),
            licence="MIT",
            about="JailbreakBench's 100 benign behaviours on the same themes as its harmful ones",
            columns=Columns(text="Goal", category="Category"),
        ),
        "strongreject": Preset(
            holds=Kind.HARMFUL,
            file=_hub("walledai/StrongREJECT", _ONE_FILE, "df54272b395ce9e584d2f8140519935425d8549f", gated=True),
            licence="MIT",
            about="StrongREJECT's 313 forbidden prompts (Souly et al. 2024)",
            columns=Columns(text="prompt", category="category"),
        ),
        "maliciousinstruct": Preset(
            holds=Kind.HARMFUL,
            file=_hub("walledai/MaliciousInstruct", _ONE_FILE, "3f9c8c91452e3cc12afab5f7137086ca789ce7da"),
            licence="CC-BY-SA-4.0",
            about="MaliciousInstruct's 100 questions (Huang et al. 2023)",
            columns=Columns(text="prompt"),
        ),
        "xstest": Preset(
            holds=Kind.BORDERLINE,
            file=_XSTEST,
            licence="CC-BY-4.0",
            about="XSTest's 250 safe prompts that look dangerous (Röttger et al. 2024)",
            columns=Columns(text="prompt", category="type"),
            where={"label": "safe"},
        ),
        "xstest-unsafe": Preset(
            holds=Kind.HARMFUL,
            file=_XSTEST,
            licence="CC-BY-4.0",
            about="XSTest's 200 unsafe prompts, the contrasts of its safe ones",
            columns=Columns(text="prompt", category="type"),
            where={"label": "unsafe"},
        ),
        "or-bench": Preset(
            holds=Kind.BORDERLINE,
            file=_hub(_OR_BENCH[0], "or-bench-hard-1k.csv", _OR_BENCH[1]),
            licence="CC-BY-4.0",
            about="OR-Bench-Hard-1K: 1,319 safe prompts that models often refuse (Cui et al. 2024)",
            columns=Columns(text="prompt"),
        ),
        "or-bench-toxic": Preset(
            holds=Kind.HARMFUL,
            file=_hub(_OR_BENCH[0], "or-bench-toxic.csv", _OR_BENCH[1]),
            licence="CC-BY-4.0",
            about="OR-Bench's 655 toxic prompts",
            columns=Columns(text="prompt"),
        ),
        "alpaca": Preset(
            holds=Kind.HARMLESS,
            file=_hub(
                "tatsu-lab/alpaca",
                "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet",
                "ad0d1bfba0420c623c7adafce3482ded744d4e21",
            ),
            licence="CC-BY-NC-4.0",
            about="Alpaca's instructions that need no further input, about 31,000 (Taori et al. 2023)",
            columns=Columns(text="instruction"),
            where={"input": ""},
        ),
        "alpacaeval": Preset(
            holds=Kind.HARMLESS,
            file=_hub("tatsu-lab/alpaca_eval", "alpaca_eval.json", "2955709b93b0e08df511a752a3874b0a89b8910b"),
            licence="CC-BY-NC-4.0",
            about="AlpacaEval's 805 instructions (Li et al. 2023)",
            columns=Columns(text="instruction"),
        ),
        "mt-bench": Preset(
            holds=Kind.HARMLESS,
            file=_hub(
                "HuggingFaceH4/mt_bench_prompts", "raw/question.jsonl", "b60d01a44377daa2d9434e50a91a9e4169a090d5"
            ),
            licence="Apache-2.0",
            about="the first turns of MT-Bench's 80 questions (Zheng et al. 2023)",
            columns=Columns(text="prompt.0"),
        ),
        "safeedit": Preset(
            holds=Kind.HARMFUL,
            file=_hub("zjunlp/SafeEdit", "SafeEdit_test.json", "a88b7689a3744873805077e04edd1c19219fc7bf", gated=True),
            licence="CC-BY-NC-SA-4.0",
            about="the questions of SafeEdit's 1,350 test cases, each once (Wang et al. 2024)",
            safeedit=True,
        ),
        "gptfuzz": Preset(
            holds=ATTACKS,
            file=PublicFile(
                host="github",
                repository="sherdencooper/GPTFuzz",
                path="datasets/prompts/GPTFuzzer.csv",
                revision="ef055247d3beeffbd4b65054bcf9ab380c078687",
            ),
            licence="MIT",
            about="the 77 human-written jailbreak templates that GPTFuzz starts from (Yu et al. 2023)",
        ),
    }
)


def load_preset(name: str) -> list[Prompt]:
    """The prompts of a named set, from the user's folder, the cache or the network.

    Raises:
        PromptFileError: no such set, one of attack templates, or its file is at hand neither here nor there; the
            message then names the file and where to put it.
    """
    preset = _named(name)
    if not isinstance(preset.holds, Kind):
        raise PromptFileError(mismatch(name, *Kind))
    path = fetch(name, preset.file)
    if preset.safeedit:
        return load_safeedit_prompts(path)
    return load_prompts(path, preset.holds, preset.columns, where=preset.where)


def load_attack_preset(name: str) -> list[Attack]:
    """The attack templates of a named set.

    Raises:
        PromptFileError: as `load_preset`.
    """
    preset = _named(name)
    if preset.holds != ATTACKS:
        raise PromptFileError(mismatch(name, ATTACKS))
    return load_attacks(fetch(name, preset.file), preset.columns, where=preset.where)


def preset_names(*kinds: Kind | str) -> list[str]:
    """The names of the sets that hold one of these kinds (or `ATTACKS`); without any, all."""
    return [name for name, preset in PRESETS.items() if not kinds or preset.holds in kinds]


def mismatch(name: str, *wanted: Kind | str) -> str:
    """The message about a set that holds something else than is asked for, with those that would do."""
    return (
        f"preset {name} holds {what(PRESETS[name].holds)}; for {' or '.join(what(kind) for kind in wanted)} "
        f"choose from {', '.join(preset_names(*wanted))}"
    )


def what(kind: Kind | str) -> str:
    """What a set of this kind consists of, in words."""
    return "attack templates" if kind == ATTACKS else f"{kind} prompts"


def _named(name: str) -> Preset:
    if name not in PRESETS:
        raise PromptFileError(f"no preset {name!r}; choose from {', '.join(preset_names())}")
    return PRESETS[name]
