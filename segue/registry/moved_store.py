"""A workspace's own MLflow store in another place than where it was made.

MLflow writes down where files lie as absolute addresses. A workspace that was copied, moved or
restored elsewhere would go on reading and writing the files of the place it came from.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from segue.errors import LockedError, RegistryError

if TYPE_CHECKING:
    from pathlib import Path

STORE = "mlflow.db"
"""The workspace's own store of MLflow's, unless `MLFLOW_TRACKING_URI` names another."""

ARTIFACTS = "mlartifacts"
"""The workspace's folder of MLflow's files."""

_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns in which MLflow keeps an absolute address."""


def relocate_store(store: Path, root: Path) -> bool:
    """Have a store speak of the files of the workspace `root`; return whether it was changed.

    What lies elsewhere (a user's own experiments, a bucket) keeps its address.

    Args:
        store: the SQLite file; one that is not there is left so.
        root: the workspace that it belongs to.

    Raises:
        LockedError: somebody else writes it.
        RegistryError: it is damaged or cannot be written.
    """
    if not store.is_file():
        return False
    here = (root.resolve() / ARTIFACTS).as_uri()
    try:
        with closing(sqlite3.connect(store, isolation_level=None)) as connection:
            if not _elsewhere(connection, here):
                return False
            connection.execute("BEGIN IMMEDIATE")
            for old in _elsewhere(connection, here):
                _rewrite(connection, old, here)
            connection.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            raise LockedError(f"MLflow's store {store}") from error
        raise RegistryError(
            f"MLflow's store {store} was made in another place and cannot be adapted to this one "
            f"({error}); mend it, or point MLFLOW_TRACKING_URI elsewhere"
        ) from error
    return True


def _elsewhere(connection: sqlite3.Connection, here: str) -> list[str]:
    """Return the other workspaces' artifact folders that our own experiments name."""
    if not _has(connection, "experiments", "artifact_location"):
        return []
    found = connection.execute(
        "SELECT DISTINCT artifact_location FROM experiments WHERE name LIKE 'segue-%'"
    ).fetchall()
    return [
        old
        for (old,) in found
        if old is not None
        and old.startswith("file:")
        and old.endswith(f"/{ARTIFACTS}")
        and old != here
    ]


def _rewrite(connection: sqlite3.Connection, old: str, here: str) -> None:
    for table, column in _ADDRESSES:
        if _has(connection, table, column):
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - fixed
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (here, len(old) + 1, old, len(old) + 1, f"{old}/"),
            )


def _has(connection: sqlite3.Connection, table: str, column: str) -> bool:
    """Whether this MLflow's schema has a column."""
    info = connection.execute(f"PRAGMA table_info({table})").fetchall()
    return any(row[1] == column for row in info)
