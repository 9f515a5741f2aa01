"""Sets the indices of formulas: in a `formula` block, `W_l` is W with a small l below."""

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

BLOCK = re.compile(r'(<div class="formula">)(.*?)(</div>)', re.DOTALL)
INDEX = re.compile(r"_([A-Za-z]+)")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Sets the formulas of a page."""
    return BLOCK.sub(lambda found: found[1] + INDEX.sub(r"<sub>\1</sub>", found[2]) + found[3], html)
