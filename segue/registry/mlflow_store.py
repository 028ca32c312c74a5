"""Reaching MLflow: imported late, its telemetry off, quiet, and its errors told in one sentence."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sqlite3
import warnings
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from segue.errors import RegistryError
from segue.files import fsync_directory, fsync_file

if TYPE_CHECKING:
    from collections.abc import Iterator

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")

# Read by MLflow itself, set only where the user did not: no telemetry, no progress bars and links
# printed into a command's output, and a server that is not there is told within seconds rather than
# after minutes of retries.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def connect(uri: str) -> Any:
    """Return an `MlflowClient` for `uri` whose store exists; call it inside `translated`."""
    tracking = load("mlflow.tracking")
    path = sqlite_file(uri)
    if path is not None and not path.exists():
        _create_sqlite(path, tracking)
    registry = os.environ.get("MLFLOW_REGISTRY_URI") or uri
    client = tracking.MlflowClient(tracking_uri=uri, registry_uri=registry)
    client.search_experiments(max_results=1)  # creates the tables, or finds nobody there
    return client


def _create_sqlite(path: Path, tracking: Any) -> None:
    """Let MLflow make its store under another name, and give it `path` when it is whole.

    MLflow makes its tables in dozens of steps: two processes doing so at once, or one killed on the
    way, leave a store that it never opens again. Whoever comes second uses the first one's.
    """
    with TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as temporary:
        made, whole = Path(temporary) / "made.db", Path(temporary) / "whole.db"
        uri = f"sqlite:///{made}"
        tracking.MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
        # MLflow keeps its connections to `made` open; `whole` has none and needs no journal.
        with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(whole)) as target:
            source.backup(target)
        fsync_file(whole)
        try:
            os.link(whole, path)  # atomic, and never over a store that is there
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            whole.replace(path)
        fsync_directory(path.parent)


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite store, or None where it is no file.

    >>> sqlite_file("sqlite:////a/b.db"), sqlite_file("sqlite://"), sqlite_file("http://x")
    (PosixPath('/a/b.db'), None, None)
    """
    found = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)", uri)
    return Path(found[1]) if found and found[1] != ":memory:" else None


def load(module: str) -> Any:
    """Import a module of MLflow: telemetry off, no notices, no warnings at import."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with quiet():
        found = importlib.import_module(module)
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Swallow MLflow's Python warnings: advice to its own developers, coloured for a terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_database(uri: str) -> bool:
    """Whether MLflow's store is a database that this process writes itself."""
    return urlsplit(uri).scheme.split("+")[0] in _DATABASES


def public_uri(uri: str) -> str:
    """Return `uri` without the password that it may hold.

    >>> public_uri("http://me:secret@host:5000/x")
    'http://***@host:5000/x'
    """
    return re.sub(r"(?<=://)[^/@]*@", "***@", uri)


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn whatever MLflow raises into one sentence.

    Raises:
        RegistryError: MLflow cannot be reached or refuses.
    """
    import sqlalchemy as sa

    exceptions = load("mlflow.exceptions")
    # ImportError: a database driver is not installed; OSError: files, and all errors of requests.
    # alembic makes the tables of a database.
    migrating = load("alembic.util.exc").CommandError
    kinds = (exceptions.MlflowException, sa.exc.SQLAlchemyError, migrating, OSError, ImportError)
    try:
        yield
    except kinds as error:
        raise RegistryError(
            f"MLflow at {public_uri(uri)} cannot be used: {_reason(error)}; mend it, or point "
            "MLFLOW_TRACKING_URI elsewhere"
        ) from error


def _reason(error: Exception) -> str:
    """Return what went wrong in a few words; MLflow quotes whole URLs, retries and SQL."""
    text = " ".join(str(error).split())
    if "Max retries exceeded" in text:
        return "nobody answers there"
    return public_uri(text[:200]) or type(error).__name__
