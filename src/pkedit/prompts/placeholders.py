"""Attack templates of others mark the place of the question in their own ways; here they get ours, `{question}`."""

import re

OURS = "{question}"
# Ours or one of its disguises, but not the two braces of Jinja.
HAS_OURS = re.compile(r"(?<!\{)\{question")
_NAMES = "prompt|goal|question|query|behavior|behaviour|instruction|request|forbidden_prompt"
# In this order, and only the first kind that is found: the later ones may also stand in a text for themselves.
KNOWN = (
    # GPTFuzz, and the collections that follow it.
    re.compile(r"\[INSERT (?:PROMPT|QUESTION|GOAL|REQUEST|BEHAVIOU?R) HERE\]", re.IGNORECASE),
    # Jinja, as PyRIT and promptfoo write it.
    re.compile(r"\{\{\s*(?:" + _NAMES + r")\s*\}\}"),
    # str.format, as JailbreakBench, StrongREJECT and EasyJailbreak write it.
    re.compile(r"\{(?:" + _NAMES + r")\}"),
    re.compile(r"\[(?:PROMPT|GOAL|QUESTION|QUERY|REQUEST|INSTRUCTION)\]"),
)


def with_our_placeholder(template: str) -> str:
    """The template with `{question}` wherever it has a well-known placeholder of others.

    Those are `[INSERT PROMPT HERE]`, `{{ prompt }}`, `{prompt}` and `[PROMPT]`, and the same with goal, question,
    query and so on. A template that has ours, or one of its disguises, is left as it is, and so is one with none.
    """
    if HAS_OURS.search(template):
        return template
    for pattern in KNOWN:
        if pattern.search(template):
            return pattern.sub(lambda _: OURS, template)
    return template
