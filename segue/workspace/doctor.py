"""Check everything a workspace holds; say what is wrong, change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from segue.errors import NoModelError, SegueError

if TYPE_CHECKING:
    from segue.workspace.core import Workspace


def examine(workspace: Workspace) -> list[str]:
    """Return one sentence for each problem found.

    It looks at the database, at the files of models, bridges and reports, at calibrations and at
    galleries.
    """
    problems: list[str] = []
    if workspace.database.is_sqlite:
        with workspace.database.read() as connection:
            rows = connection.execute(sa.text("PRAGMA integrity_check")).scalars().all()
        problems += [f"database: {row}" for row in rows if row != "ok"]
    for version in workspace.registry.list():
        if version.kind == "mapped":
            continue  # a model and a bridge, each of which is checked as what it is
        try:
            workspace.registry.people(version)
            workspace.registry.load(version.version)
        except NoModelError:
            continue  # a version of vectors only has nothing to load
        except SegueError as error:
            problems.append(f"{version.version}: {error}")
    problems += workspace.registry.check()
    for name in workspace.galleries():
        problems += [f"gallery {name}: {problem}" for problem in workspace.gallery(name).check()]
    return problems
