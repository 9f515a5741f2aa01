"""Shows what lies outside `docs/` and is linked to: source files, and the Markdown files of the repository's root.

In Markdown a link goes to `../src/pkedit/…`, as a forge understands it; in the site it goes to a page with the file,
for the site has to work without a forge beside it.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
# What may be shown, and what it is written in.
LANGUAGES = {".py": "python", ".toml": "toml", ".cff": "yaml", ".html": "jinja"}
LINK = re.compile(r"\]\((?P<up>(?:\.\./)+)(?P<path>[\w./-]+)(?P<anchor>#[\w.-]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the root's pages, and one for every file that a page links to."""
    root = Path(config.docs_dir).parent
    for name in ROOT_PAGES:
        files.append(File.generated(config, name, content=_from_root((root / name).read_text(encoding="utf-8"))))
    linked = {
        found["path"]
        for file in files.documentation_pages()
        for found in LINK.finditer(file.content_string)
        if _leaves(found, file)
    }
    for path in sorted(linked):
        if Path(path).suffix in LANGUAGES:
            files.append(File.generated(config, page_of(path), content=_shown(root / path, path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads links out of `docs/` to the pages that show their targets."""
    back = "../" * page.file.src_uri.count("/")

    def inside(found: re.Match[str]) -> str:
        if not _leaves(found, page.file):
            return found[0]
        return f"]({back}{page_of(found['path'])}{found['anchor'] or ''})"

    return LINK.sub(inside, markdown)


def page_of(path: str) -> str:
    """The page that shows a file of the repository."""
    if path.endswith((".md", ".ipynb")):
        return str(Path(path).with_suffix(".md"))
    return f"source/{path}.md"


def _leaves(link: re.Match[str], file: File) -> bool:
    """Whether a link goes from this page to the repository's root."""
    return link["up"].count("/") == file.src_uri.count("/") + 1


def _from_root(text: str) -> str:
    """Links from the root as they are written in `docs/`."""
    return re.sub(r"\]\((?=(src|examples|tests)/|README|LICENSE|CITATION)", "](../", text).replace("](docs/", "](")


def _shown(file: Path, path: str) -> str:
    text = file.read_text(encoding="utf-8")
    return f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n````{LANGUAGES[file.suffix]}\n{text}````\n"
