"""What tests of commands look at beside the output."""

from __future__ import annotations

import hashlib
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def state(workspace: Path) -> tuple[dict[str, str], str]:
    """Return every file's hash and the database as SQL text: what must not change."""
    files = {
        path.relative_to(workspace).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(workspace.rglob("*"))
        if path.is_file() and not path.name.startswith(("segue.db", "mlflow.db"))
    }
    connection = sqlite3.connect(workspace / "segue.db")
    try:
        dump = "\n".join(connection.iterdump())
    finally:
        connection.close()
    return files, dump
