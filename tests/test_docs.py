"""The documentation is true: its code runs, its commands and settings exist, its figures are the README's."""

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer
import yaml

from pkedit.cli import app
from pkedit.models import families
from pkedit.settings import RunSettings
from tiny import make_chat

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))])
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
FIGURE = re.compile(r"\d+\.\d+(?= %| points| nats)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [text for _, found, text in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def command_lines(page: Path) -> list[str]:
    """What a page tells the reader to type that begins with `pkedit`, in blocks and in running text."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line for _, language, block in BLOCK.findall(text) if language in ("", "bash") for line in block.split("\n")
    ]
    return [line.strip() for line in [*lines, *CODE.findall(BLOCK.sub("", text))] if line.strip().startswith("pkedit ")]


def _costly(page: Path) -> Any:
    """The README's example is a whole edit with the default settings."""
    return pytest.param(page, marks=pytest.mark.slow) if page.name == "README.md" else page


class Outside(HTMLParser):
    """Collects what a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        address = given.get("src") or (given.get("href") if tag == "link" else None) or ""
        if re.match(r"(https?:)?//", address) and given.get("rel") != "canonical":
            self.loaded.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_every_command_and_setting(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"pkedit {name}" in commands
        for parameter in command.params:
            assert all(option in commands for option in parameter.opts)
    settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    for name, value in RunSettings().model_dump().items():
        for shown in value if isinstance(value, dict) and value else [name]:
            assert f"<td><code>{shown}</code></td>" in settings


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        outside = Outside()
        outside.feed(page.read_text(encoding="utf-8"))
        assert not outside.loaded, name_of(page)


@pytest.mark.parametrize("page", [_costly(page) for page in PAGES if blocks(page, "python")], ids=name_of)
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "pkedit.models.loading.load_model",
        lambda *_, **__: make_chat("llama", max_position_embeddings=2048),
    )
    names: dict[str, Any] = {"__name__": "page"}
    printed, said = io.StringIO(), blocks(page, "text")
    with mock.patch.dict(families.FAMILIES), contextlib.redirect_stdout(printed):
        for number, code in enumerate(blocks(page, "python")):
            exec(compile(code, f"{name_of(page)}, block {number}", "exec"), names)
    for text in said:
        assert text in printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_exists_with_its_options(page: Path) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in command_lines(page):
        words = shlex.split(line.split(" #")[0].replace("…", ""))[1:]
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        named = [word for word in words if not word.startswith("-") and word != "|"]
        if not named:
            assert set(options) <= {"--help", "--version", "--install-completion", "--show-completion"}, line
            continue
        # `pkedit locate | edit | evaluate MODEL …` names several.
        several = named[: words.count("|") + 1]
        assert set(several) <= commands.keys(), line
        for name in several:
            known = {option for parameter in commands[name].params for option in parameter.opts} | {"--help"}
            assert set(options) <= known, f"{name_of(page)}: {line}"


def test_settings_that_are_shown_are_settings() -> None:
    texts = [text for page in [*PAGES, DOCS / "hooks" / "settings.py"] for text in blocks(page, "json")]
    assert texts
    for text in texts:
        RunSettings.model_validate(json.loads(text))


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_relative_to(DOCS)], ids=name_of)
def test_the_figures_of_a_page_are_those_of_the_readme(page: Path) -> None:
    known = set(re.findall(r"\d+\.\d+", (ROOT / "README.md").read_text(encoding="utf-8")))
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    assert set(FIGURE.findall(prose)) <= known


def versions() -> Iterator[str]:
    yield re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]
    yield yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    yield re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]  # type: ignore[index]


def test_citation_and_changelog_are_of_this_version() -> None:
    assert len(set(versions())) == 1
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
