"""Text in the files of a run, fit for a page."""

from typing import Any

from pkedit.visible import visible


def all_visible(content: Any) -> Any:
    """JSON content with every string, names of members too, made visible."""
    if isinstance(content, str):
        return visible(content)
    if isinstance(content, list):
        return [all_visible(one) for one in content]
    if isinstance(content, dict):
        return {visible(name): all_visible(value) for name, value in content.items()}
    return content


def shortened(text: str, most: int) -> str:
    """The text, cut to `most` characters with an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
