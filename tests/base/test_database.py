from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from segue import database
from segue.database import Database
from segue.errors import FormatError, LockedError, WorkspaceError
from segue.types import utc_now


@pytest.fixture
def opened(tmp_path):
    made = Database(tmp_path / "segue.db")
    made.create()
    yield made
    made.close()


def _entry(action="test"):
    return database.ledger.insert().values(
        at=utc_now(), actor="a", action=action, subject="s", details={"b": 1, "a": [2]}
    )


def _count(connection):
    return connection.scalar(sa.select(sa.func.count()).select_from(database.ledger))


def test_a_write_is_committed_whole_or_not_at_all(opened):
    """An error inside the block leaves nothing of it."""
    with opened.write() as connection:
        connection.execute(_entry())

    def failing():
        with opened.write() as connection:
            connection.execute(_entry())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    with opened.read() as connection:
        assert _count(connection) == 1


def test_the_ledger_can_only_be_added_to(opened):
    """Changing and deleting entries is refused by the database itself."""
    with opened.write() as connection:
        connection.execute(_entry())
    for statement in (database.ledger.delete(), database.ledger.update().values(actor="b")):
        with pytest.raises(sa.exc.IntegrityError, match="append-only"), opened.write() as c:
            c.execute(statement)


def test_a_reader_sees_one_commit(opened):
    """What another connection commits meanwhile is not seen inside a read."""
    with opened.read() as reader:
        assert _count(reader) == 0
        with opened.write() as writer:
            writer.execute(_entry())
        assert _count(reader) == 0
    with opened.read() as reader:
        assert _count(reader) == 1


def test_a_second_writer_waits_and_is_then_told(tmp_path, monkeypatch):
    """A writer that waited long enough raises the error with exit code 75."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    first, second = Database(tmp_path / "x.db"), Database(tmp_path / "x.db")
    first.create()
    inside, done = threading.Event(), threading.Event()

    def hold():
        with first.write():
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    try:
        with pytest.raises(LockedError) as caught, second.write():
            pass
        assert caught.value.exit_code == 75
    finally:
        done.set()
        thread.join()
        first.close()
        second.close()


def test_json_columns_come_back_as_they_went_in(opened):
    """JSON is stored as text with sorted keys."""
    with opened.write() as connection:
        connection.execute(_entry())
    with opened.read() as connection:
        assert connection.scalar(sa.select(database.ledger.c.details)) == {"a": [2], "b": 1}
        raw = connection.exec_driver_sql("SELECT details FROM ledger").scalar()
        assert raw == '{"a": [2], "b": 1}'


def test_a_newer_format_and_a_foreign_file_are_refused(opened, tmp_path):
    """A database of another format, or no database at all, is told apart and left alone."""
    with opened.write() as connection:
        connection.execute(database.workspace.update().values(value=99))
    with pytest.raises(FormatError, match="format 99"):
        opened.check_format()
    foreign = tmp_path / "foreign.db"
    foreign.write_bytes(b"this is no database, it is a text file of some length" * 20)
    with pytest.raises(WorkspaceError):
        Database(foreign).check_format()


def test_only_one_open_migration_fits_a_gallery(opened):
    """The schema itself refuses a second open migration, and allows one after the first ended."""
    row = {
        "gallery": "g",
        "source": "f/1",
        "target": "f/2",
        "strategy": "mixed",
        "items_order": "oldest",
        "batch": 1,
        "plan": {},
        "created_at": utc_now(),
        "updated_at": utc_now(),
    }
    with opened.write() as connection:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        connection.execute(
            database.versions.insert().values(
                version="f/1",
                name="f",
                number=1,
                kind="vectors",
                outputs={},
                files={},
                fingerprint="",
                details={},
                created_at=utc_now(),
            )
        )
        connection.execute(
            database.galleries.insert().values(
                gallery="g",
                serving="f/1",
                preference=["f/1"],
                companions=[],
                codec="float32",
                next_seq=1,
                generation=0,
                erased_generation=0,
                created_at=utc_now(),
            )
        )
        connection.execute(database.migrations.insert().values(state="completed", **row))
        connection.execute(database.migrations.insert().values(state="running", **row))
    with pytest.raises(sa.exc.IntegrityError), opened.write() as connection:
        connection.execute(database.migrations.insert().values(state="paused", **row))
