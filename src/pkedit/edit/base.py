"""What a delta remembers of the model it was made for, so that another one is named and not only found different."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

from pkedit.errors import DeltaError
from pkedit.models.chat import ChatModel

# What the places and the sizes of neurons depend on. The others say that an edit was learnt under other conditions.
SHAPES = ("vocabulary", "hidden", "layers", "neurons")
_WORDS = {
    "architecture": "architecture {}",
    "vocabulary": "vocabulary of {} tokens",
    "hidden": "hidden size of {}",
    "layers": "{} layers",
    "neurons": "{} MLP neurons",
    "chat_template": "chat template {}",
}


@dataclass(frozen=True)
class BaseFacts:
    """A model in a few facts; `chat_template` is the beginning of the template's SHA-256."""

    architecture: str
    vocabulary: int
    hidden: int
    layers: int
    neurons: int
    chat_template: str

    def to_json(self) -> str:
        """For the header of a file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "BaseFacts":
        """What `to_json` wrote.

        Raises:
            DeltaError: it is something else.
        """
        try:
            content = json.loads(text)
            unknown = content.keys() - {field.name for field in fields(cls)}
            if unknown:
                raise KeyError(f"unknown: {min(unknown)}"[:80])
            return cls(**{field.name: field.type(content[field.name]) for field in fields(cls)})  # type: ignore[operator]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise DeltaError(
                f"the facts about the base model are damaged ({error!r}); edit again, or take another copy of the file"
            ) from None

    def differences(self, other: "BaseFacts", *names: str) -> Iterator[str]:
        """In words, what this one has and the other has not: all facts, or those named."""
        for name in names or _WORDS:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                yield f"{_WORDS[name].format(mine)}, not {theirs}"


def base_facts(chat: ChatModel) -> BaseFacts:
    """The facts of a loaded model."""
    # A tokenizer may have several templates, by name.
    template = json.dumps(chat.tokenizer.chat_template, sort_keys=True)
    return BaseFacts(
        architecture=str(chat.model.config.get_text_config().model_type),
        vocabulary=len(chat.model.get_input_embeddings().weight),
        hidden=chat.sites[0].hidden,
        layers=chat.layers,
        neurons=chat.neurons,
        chat_template=hashlib.sha256(template.encode()).hexdigest()[:16],
    )


def check_base(made_for: BaseFacts, chat: ChatModel, base: str) -> None:
    """That the model is of the kind that a delta was made for.

    Raises:
        DeltaError: it has another vocabulary, chat template, size or architecture; all of them are named.
    """
    found = list(made_for.differences(base_facts(chat)))
    if found:
        advice = " Give the template it was made with by --chat-template." if "chat template" in found[-1] else ""
        raise DeltaError(
            f"the delta was made for another model than {chat.name}: {base or 'its base'} has {'; '.join(found)}."
            f"{advice}"
        )
