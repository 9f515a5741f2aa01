"""What the report shows of the pathway and of the edit in words: two files, from one short look at the model."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pkedit.edit.delta import Delta
from pkedit.edit.words import words_of
from pkedit.locate.graph import PROMPT, UNSAFE, Node, pathway_graph
from pkedit.locate.locating import pair_dialogues
from pkedit.locate.region import Region
from pkedit.models.batches import kept_dialogues
from pkedit.models.chat import ChatModel, Progress
from pkedit.models.precision import arithmetic
from pkedit.models.token_text import token_text
from pkedit.prompts.types import ContrastPair, Demonstration
from pkedit.run.record import write_atomically
from pkedit.settings import LocateSettings

SCHEMA_VERSION = 1
PATHWAY, WORDS = "pathway.json", "words.json"
# Two dialogues for each pair. A picture of the pathway needs no more, and every run pays for them.
PAIRS, HARMLESS = 8, 16
FIRST_WORDS = 8


def explain(
    chat: ChatModel,
    region: Region,
    delta: Delta,
    pairs: Sequence[ContrastPair],
    demonstrations: Sequence[Demonstration],
    settings: LocateSettings,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> None:
    """Writes `pathway.json` and `words.json`. The model is the base model before and afterwards, bit for bit."""
    traced = pairs[:PAIRS]
    margin = pair_dialogues(chat, traced, limit=settings.tokens)
    harmless = kept_dialogues(chat, demonstrations[:HARMLESS], limit=settings.tokens)
    with chat.frozen(), arithmetic(chat, settings.precision, cast_once=True):
        pathway = pathway_graph(
            chat,
            region,
            margin,
            harmless,
            first_tokens=settings.first_tokens,
            first_weight=settings.first_weight,
            tokens_per_batch=settings.tokens_per_batch,
            progress=progress,
        )
    nodes = [
        {"id": PROMPT, "kind": "prompt"},
        *(_node(node) for node in pathway.nodes),
        {"id": UNSAFE, "kind": "unsafe", "words": _first_words(chat, pairs)},
    ]
    content = {
        "pairs": pathway.pairs,
        "note": pathway.note,
        "layers": chat.layers,
        "attention": pathway.attention,
        "mlp": pathway.mlp,
        "nodes": nodes,
        "edges": [{"from": edge.source, "to": edge.target, "weight": edge.weight} for edge in pathway.edges],
    }
    _write(folder / PATHWAY, content)
    # Behind the weights that were cast for the time being: the delta looks whether they are its originals.
    prompts = [item.prompt for item in margin[::2]]
    budget, precision = settings.tokens_per_batch, settings.precision
    words = words_of(chat, region, delta, prompts, tokens_per_batch=budget, precision=precision)
    _write(folder / WORDS, asdict(words))


def _node(node: Node) -> dict[str, Any]:
    place = {"layer": node.layer, "contribution": node.contribution}
    if node.neuron is None:
        return {"id": node.name, "kind": "attention", **place}
    neuron = {"expert": node.neuron.expert, "index": node.neuron.index, "edited": node.edited}
    return {"id": node.name, "kind": "neuron", **place, **neuron}


def _first_words(chat: ChatModel, pairs: Sequence[ContrastPair]) -> list[str]:
    """What the unsafe answers most often begin with."""
    first = Counter(chat.answer_ids(pair.unsafe, limit=1, ended=False)[0] for pair in pairs if pair.unsafe)
    return [token_text(chat.tokenizer, token).strip() for token, _ in first.most_common(FIRST_WORDS)]


def _write(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps({"schema_version": SCHEMA_VERSION, **content}, ensure_ascii=False, indent=1))
