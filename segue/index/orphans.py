"""Files that no catalog lists: what a killed commit left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from segue import database as tables
from segue.index.index_files import overwrite_and_unlink

if TYPE_CHECKING:
    from pathlib import Path

    from segue.index.shelf import Shelf


def find_orphans(shelf: Shelf) -> list[Path]:
    """Return the files in the gallery's folder that the catalog does not list, sorted.

    Only who holds the folder alone (`staging.sweeping`) knows that nobody is about to list them.
    """
    with shelf.database.read() as connection:
        listed = {
            path
            for column in (
                tables.segments.c.path,
                tables.segments.c.key_path,
                tables.index_files.c.path,
            )
            for path in connection.scalars(sa.select(column))
        }
    return sorted(
        path
        for folder in (shelf.folder / "segments", shelf.folder / "indexes")
        if folder.is_dir()
        for path in folder.iterdir()
        if path.relative_to(shelf.root).as_posix() not in listed
    )


def remove_orphans(shelf: Shelf) -> int:
    """Overwrite and remove them; call it while holding the folder alone. Return how many."""
    found = find_orphans(shelf)
    for path in found:
        overwrite_and_unlink(path)
    return len(found)
