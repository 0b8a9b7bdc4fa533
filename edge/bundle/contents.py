"""Which files lie in a bundle's directory: a walk that ends, however deep, wide or odd the directory is."""

from __future__ import annotations

import os
from pathlib import Path

from edge.bundle.manifest import MAX_FILES
from edge.errors import ProcunitError

MAX_ENTRIES = 2 * MAX_FILES
"""Files and folders together: a bundle that is full of folders with one file each has no more."""
_COPY_AGAIN = "Copy the bundle again"


def files_in(root: Path) -> frozenset[str]:
    """The names of all files, as the manifest lists them: `FILE` or `FOLDER/FILE`.

    Raises:
        ProcunitError: there is a link or something that is neither file nor folder, a folder within a folder, or more
            than `MAX_ENTRIES`; or a folder cannot be read.
    """
    left, found = [MAX_ENTRIES], set()
    for entry in _entries(root, left):
        if entry.is_dir(follow_symlinks=False):
            for inner in _entries(Path(entry.path), left):
                if inner.is_dir(follow_symlinks=False):
                    raise ProcunitError("a folder within a folder", where=inner.path, remedy=_COPY_AGAIN)
                found.add(f"{entry.name}/{inner.name}")
        else:
            found.add(entry.name)
    return frozenset(found)


def _entries(folder: Path, left: list[int]) -> list[os.DirEntry[str]]:
    """The entries of one folder in the order of their names; `left` is how many may still be read."""
    entries = []
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                left[0] -= 1
                if left[0] < 0:
                    raise ProcunitError(
                        f"more than {MAX_ENTRIES} files and folders", where=str(folder), remedy=_COPY_AGAIN
                    )
                if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                    raise ProcunitError("a bundle may contain plain files only, no links", where=entry.path)
                entries.append(entry)
    except OSError as error:
        raise ProcunitError(f"cannot be read: {error.strerror}", where=str(folder)) from error
    return sorted(entries, key=lambda entry: entry.name)
