"""The tokenizer of an exported model: the files of its source, byte for byte, where there are any."""

import shutil
from pathlib import Path

from pkedit.errors import ExportError
from pkedit.models.chat import ChatModel
from pkedit.models.loading import config_source
from pkedit.models.source import source_file

# As glob patterns; `vocab_files_names` of the tokenizer adds what its own kind keeps.
FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template.*", "vocab.*", "merges.txt"),
    *("*.tiktoken", "tekken.json", "spiece.model", "additional_chat_templates/*.jinja", "tokenization_*.py"),
)
TEMPLATE = "chat_template.jinja"


def write_tokenizer(chat: ChatModel, folder: Path, *, template_given: bool) -> list[str]:
    """Copies the tokenizer's files from where the model was loaded; saves it where there are none, as with GGUF.

    Args:
        chat: the model.
        folder: where to.
        template_given: whether its chat template came from a file of the user's, which then goes along.

    Returns:
        The names of the files that were copied.

    Raises:
        ExportError: a file of the tokenizer is a link out of the model's folder: what it leads to is not the model's to
            give away.
    """
    source = _folder(chat.name)
    patterns = {*FILES, *(name for name in chat.tokenizer.vocab_files_names.values() if name)}
    found = set() if source is None else {path for pattern in patterns for path in source.glob(pattern)}
    copied = []
    for path in sorted(path for path in found if path.is_file()):
        name = path.relative_to(source or path.parent)
        _check_inside(path, source or path.parent)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
        copied.append(str(name))
    if not copied:
        chat.tokenizer.save_pretrained(folder)
    elif template_given:
        (folder / TEMPLATE).write_text(chat.tokenizer.chat_template, encoding="utf-8")
    return copied


def _check_inside(path: Path, folder: Path) -> None:
    # The cache of the Hub keeps files beside the folders that link to them, each under the repository's own.
    home = folder.resolve()
    home = home.parent.parent if home.parent.name == "snapshots" else home
    if not path.resolve().is_relative_to(home):
        raise ExportError(
            f"{path} is a link to a file outside of the model's folder, which is not copied; put the file itself there"
        )


def _folder(model: str) -> Path | None:
    """The folder that holds the source's files; None for a GGUF file, which holds its tokenizer itself."""
    source, extra = config_source(model)
    if "gguf_file" in extra:
        return None
    if Path(source).is_dir():
        return Path(source)
    # A repository: what was loaded lies in one folder of the cache.
    config = source_file(source, "config.json")
    return None if config is None else config.parent
