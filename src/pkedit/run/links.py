"""Keeps what is written into a run folder inside of it: a folder from someone else may hold links to elsewhere."""

import os
from pathlib import Path

from pkedit.errors import RunFolderError


def check_links(folder: Path) -> None:
    """That no link in the folder leads out of it. The folder itself may be one.

    Raises:
        RunFolderError: one does; it is named, and nothing was read or written through it.
    """
    home = folder.resolve()
    for place, folders, files in os.walk(home):
        for name in (*folders, *files):
            path = Path(place) / name
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(home):
                raise RunFolderError(
                    f"{path} is a link out of the run folder, through which something else would be overwritten; "
                    "remove it, or give another --out"
                )
