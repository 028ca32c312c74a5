"""The workspace's SQL database and its whole schema.

SQLite in WAL mode in the workspace by default, PostgreSQL by URL. Rooms own tables (named in the
comments below) but never open a connection of their own: `Database.read` and `Database.write` are
the only two ways in. A write is one `BEGIN IMMEDIATE` transaction: what several rooms must change
together (segments, serving version, migration state, event), they change on one connection.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event

from segue.errors import DiskFullError, FormatError, LockedError, ReadOnlyError, WorkspaceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

FORMAT = 1
"""The schema's format version; it changes only by an explicit command."""

BUSY_SECONDS = 30.0
"""How long a writer waits for another before it gives up with `LockedError`."""

metadata = sa.MetaData()


class JSONText(sa.types.TypeDecorator[Any]):
    """JSON as text with sorted keys, the same bytes on every backend."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        """Write the value as text."""
        return None if value is None else json.dumps(value, sort_keys=True, allow_nan=False)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:  # noqa: ARG002
        """Read the value from text."""
        return None if value is None else json.loads(value)


def _table(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    return sa.Table(name, metadata, *columns)


# --- workspace ------------------------------------------------------------------------------

workspace = _table(
    "workspace",
    sa.Column("key", sa.Text, primary_key=True),  # "format"
    sa.Column("value", JSONText, nullable=False),
)

# --- registry -------------------------------------------------------------------------------

versions = _table(
    "versions",
    sa.Column("version", sa.Text, primary_key=True),  # faces/1, faces/1~b3
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),  # network | onnx | vectors | mapped
    sa.Column("outputs", JSONText, nullable=False),  # output name -> dimension
    sa.Column("preprocessing", JSONText),  # null for vectors
    sa.Column("files", JSONText, nullable=False),  # file name -> sha256, below models/<slug>/
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("details", JSONText, nullable=False),  # architecture, settings, training, free text
    sa.Column("mlflow_uri", sa.Text),  # models:/faces/1 where MLflow has a copy
    sa.Column("created_at", sa.Text, nullable=False),
)

aliases = _table(
    "aliases",
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("alias", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, sa.ForeignKey("versions.version"), nullable=False),
)

bridges = _table(
    "bridges",
    sa.Column("bridge", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("source", sa.Text, sa.ForeignKey("versions.version"), nullable=False),
    sa.Column("target", sa.Text, sa.ForeignKey("versions.version"), nullable=False),
    sa.Column("path", sa.Text, nullable=False),  # relative to the workspace
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("created_at", sa.Text, nullable=False),
)

# One row per measured edge; measuring again replaces the row, the ledger keeps that it happened.
edges = _table(
    "edges",
    sa.Column("probe", sa.Text, sa.ForeignKey("versions.version"), primary_key=True),
    sa.Column("stored", sa.Text, sa.ForeignKey("versions.version"), primary_key=True),
    sa.Column("probe_output", sa.Text, nullable=False),
    sa.Column("stored_output", sa.Text, nullable=False),
    sa.Column("bridge", sa.Integer, sa.ForeignKey("bridges.bridge")),  # maps the probe's vector
    sa.Column("calibration", JSONText),
    sa.Column("measured", JSONText, nullable=False),  # VAL by FAR, rank-1, data fingerprint
    sa.Column("report", sa.Integer, sa.ForeignKey("reports.report")),
    sa.Column("created_at", sa.Text, nullable=False),
)

reports = _table(
    "reports",
    sa.Column("report", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("old", sa.Text, sa.ForeignKey("versions.version"), nullable=False),
    sa.Column("new", sa.Text, sa.ForeignKey("versions.version"), nullable=False),
    sa.Column("path", sa.Text, nullable=False),  # folder with report.json, relative
    sa.Column("sha256", sa.Text, nullable=False),  # of report.json
    sa.Column("gate", JSONText, nullable=False),  # {"go": bool, "checks": [...]}
    sa.Column("created_at", sa.Text, nullable=False),
)

# Append-only: triggers refuse UPDATE and DELETE.
ledger = _table(
    "ledger",
    sa.Column("entry", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),  # register, promote, edge, gate, force, serving …
    sa.Column("subject", sa.Text, nullable=False),  # a version, edge or gallery
    sa.Column("reason", sa.Text),
    sa.Column("details", JSONText, nullable=False),
)

# --- index ----------------------------------------------------------------------------------

galleries = _table(
    "galleries",
    sa.Column("gallery", sa.Text, primary_key=True),
    sa.Column("serving", sa.Text, sa.ForeignKey("versions.version"), nullable=False),
    # Versions an item may be live in, most preferred first; the serving version leads.
    sa.Column("preference", JSONText, nullable=False),
    # Versions that a new item is embedded with beside the serving one (for a later revert).
    sa.Column("companions", JSONText, nullable=False),
    sa.Column("codec", sa.Text, nullable=False),  # float32 | int8
    sa.Column("next_seq", sa.BigInteger, nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),  # grows with every commit
    sa.Column("erased_generation", sa.BigInteger, nullable=False),  # of the last tombstone
    sa.Column("created_at", sa.Text, nullable=False),
)

segments = _table(
    "segments",
    sa.Column("segment", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("gallery", sa.Text, sa.ForeignKey("galleries.gallery"), nullable=False, index=True),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("output", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False, unique=True),  # relative to the workspace
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("key_path", sa.Text, nullable=False),
    sa.Column("key_sha256", sa.Text, nullable=False),
    sa.Column("min_seq", sa.BigInteger, nullable=False),
    sa.Column("max_seq", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Text, nullable=False),
)

fresh_rows = _table(
    "fresh_rows",
    sa.Column("gallery", sa.Text, sa.ForeignKey("galleries.gallery"), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("output", sa.Text, primary_key=True),
    sa.Column("item_id", sa.Text, nullable=False),
    sa.Column("identity", sa.Text),
    sa.Column("source", sa.Text),
    sa.Column("source_sha256", sa.Text),
    sa.Column("vector", sa.LargeBinary, nullable=False),  # little-endian float32, or int8 codes
    sa.Column("embedded_at", sa.Text, nullable=False),
    sa.Index("fresh_rows_item", "gallery", "item_id"),
)

tombstones = _table(
    "tombstones",
    sa.Column("gallery", sa.Text, sa.ForeignKey("galleries.gallery"), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("why", sa.Text, nullable=False),  # replace | erase, and until swept two hashes
    # The item's next seq, where it was replaced: erasing that one condemns all before it, so that
    # a restore, which brings replaced items back, never brings back an erased one.
    sa.Column("replaced_by", sa.BigInteger),
    sa.Column("swept", sa.Boolean, nullable=False),  # no file or row holds it any more
    sa.Column("at", sa.Text, nullable=False),
)

# Faiss indexes: rebuildable, published only for a snapshot not older than the last erasure.
index_files = _table(
    "index_files",
    sa.Column("gallery", sa.Text, sa.ForeignKey("galleries.gallery"), primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("output", sa.Text, primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("segments", JSONText, nullable=False),  # the segment ids it was built from
    sa.Column("generation", sa.BigInteger, nullable=False),
)

touched = _table(
    "touched",
    sa.Column("gallery", sa.Text, sa.ForeignKey("galleries.gallery"), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("at", sa.Text, nullable=False),
)

leases = _table(
    "leases",
    sa.Column("gallery", sa.Text, sa.ForeignKey("galleries.gallery"), primary_key=True),
    sa.Column("purpose", sa.Text, primary_key=True),  # migration
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),  # host:pid
    sa.Column("expires_at", sa.Text, nullable=False),
)

# --- migrations -----------------------------------------------------------------------------

migrations = _table(
    "migrations",
    sa.Column("migration", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("gallery", sa.Text, sa.ForeignKey("galleries.gallery"), nullable=False),
    sa.Column("source", sa.Text, nullable=False),  # the old version
    sa.Column("target", sa.Text, nullable=False),  # the new version
    sa.Column("strategy", sa.Text, nullable=False),  # mixed | blue-green
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("items_order", sa.Text, nullable=False),  # oldest | random | farthest
    sa.Column("batch", sa.Integer, nullable=False),
    sa.Column("throttle", sa.Float),  # items per second; null is unlimited
    sa.Column("waiting", sa.Text),  # why the runner waits, null while it works
    sa.Column("plan", JSONText, nullable=False),
    sa.Column("forced", sa.Text),  # the reason given for overriding a NO-GO
    sa.Column("verified", JSONText),  # what verification saw
    sa.Column("complete_after", sa.Text),  # end of the grace period
    sa.Column("created_at", sa.Text, nullable=False),
    sa.Column("updated_at", sa.Text, nullable=False),
    # At most one open migration per gallery; closed ones are completed, reverted or aborted.
    sa.Index(
        "migrations_one_open",
        "gallery",
        unique=True,
        sqlite_where=sa.text("state NOT IN ('completed', 'reverted', 'aborted')"),
        postgresql_where=sa.text("state NOT IN ('completed', 'reverted', 'aborted')"),
    ),
)

migration_events = _table(
    "migration_events",
    sa.Column("event", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column(
        "migration",
        sa.Integer,
        sa.ForeignKey("migrations.migration"),
        nullable=False,
        index=True,
    ),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("event_name", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # the state after the event
    sa.Column("details", JSONText, nullable=False),
)

quarantine = _table(
    "quarantine",
    sa.Column("migration", sa.Integer, sa.ForeignKey("migrations.migration"), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),  # never a path, an item id or an identity
    sa.Column("at", sa.Text, nullable=False),
)

_APPEND_ONLY = (
    """CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger
       BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger
       BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
)


class Database:
    """One workspace's database: `read()` for a consistent snapshot, `write()` for a commit.

    Args:
        location: a path of a SQLite file, or a SQLAlchemy URL (`postgresql+psycopg://…`).
    """

    def __init__(self, location: Path | str) -> None:
        self.location = location
        url = str(location) if "://" in str(location) else f"sqlite:///{location}"
        self.is_sqlite = url.startswith("sqlite")
        self.engine = sa.create_engine(
            url, **({"connect_args": {"timeout": BUSY_SECONDS}} if self.is_sqlite else {})
        )
        if self.is_sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)

    def create(self) -> None:
        """Create every table in an empty database.

        Raises:
            ReadOnlyError, DiskFullError: it cannot be written.
        """
        with self.write() as connection:
            metadata.create_all(connection)
            if self.is_sqlite:
                for statement in _APPEND_ONLY:
                    connection.exec_driver_sql(statement)
            connection.execute(workspace.insert().values(key="format", value=FORMAT))

    def check_format(self) -> None:
        """Refuse a database written by a newer Segue.

        Raises:
            FormatError: its format is not `FORMAT`.
            WorkspaceError: the file is no Segue database.
        """
        try:
            with self.read() as connection:
                found = connection.scalar(
                    sa.select(workspace.c.value).where(workspace.c.key == "format")
                )
        except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
            if "disk I/O" in str(error):
                raise self._disk_error() from error
            raise WorkspaceError(
                f"{self.location} is no Segue database; restore it from a backup"
            ) from error
        if found != FORMAT:
            raise FormatError(str(self.location), str(found), FORMAT)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open one read transaction: everything read inside is of one commit."""
        with self._translated(), self.engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            yield connection
            connection.rollback()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open one write transaction: committed and durable on leaving, rolled back on an error.

        Raises:
            LockedError: another writer held it for longer than `BUSY_SECONDS`.
            ReadOnlyError, DiskFullError: it cannot be written.
        """
        with self._translated(), self.engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.OperationalError, sqlite3.OperationalError) as error:
            # An error while connecting comes unwrapped, one of a statement wrapped.
            message = str(getattr(error, "orig", error))
            if "locked" in message or "busy" in message:
                raise LockedError(f"database {self.location}") from error
            if "readonly" in message or "unable to open" in message:
                raise ReadOnlyError(str(self.location)) from error
            if "full" in message:
                raise DiskFullError(str(self.location)) from error
            if "disk I/O" in message:
                raise self._disk_error() from error
            raise

    def _disk_error(self) -> WorkspaceError:
        """Tell what SQLite calls a disk I/O error: on a full disk its files cannot be made."""
        free = os.statvfs(Path(self.location).parent).f_bavail
        if free == 0:
            return DiskFullError(str(self.location))
        return WorkspaceError(
            f"the disk of {self.location} cannot be read or written; look at the system's log, "
            "then run the same command again (nothing was changed)"
        )


def _prepare_sqlite(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    """Set what durability, erasure and our own transactions need on every new connection."""
    assert isinstance(connection, sqlite3.Connection)
    connection.isolation_level = None  # transactions are begun by `read` and `write` alone
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # acknowledged means durable
        "secure_delete=ON",  # erased rows are overwritten
        "foreign_keys=ON",
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}").close()
