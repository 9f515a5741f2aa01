"""Questions to try, from the prompt sets that come with pkedit. By default no edit learns from any of them."""

from pkedit.prompts import Kind, builtin_prompts

SHOWN = {
    Kind.HARMLESS: ("s008", "s100", "s332"),
    Kind.BORDERLINE: ("b019", "b059", "b231"),
    Kind.HARMFUL: ("h121", "h167", "h200"),
}


def examples() -> dict[str, list[str]]:
    """The texts of the shown prompts, by kind."""
    found = {}
    for kind, identifiers in SHOWN.items():
        texts = {prompt.id: prompt.text for prompt in builtin_prompts(kind)}
        found[kind.value] = [texts[identifier] for identifier in identifiers]
    return found


def harmless_texts() -> list[str]:
    """Every eleventh harmless prompt: all topics, few enough to be read in a second or two."""
    return [prompt.text for prompt in builtin_prompts(Kind.HARMLESS)[::11]]
