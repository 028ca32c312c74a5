from __future__ import annotations

import threading
from contextlib import contextmanager

import numpy as np
import pytest
from gallery_world import D, ids, new_items, probe, unit

from segue.errors import LockedError, UnknownItemError, UsageError
from segue.index import Erasure, Reembedded, acquire_lease
from segue.index.index_files import save_index
from segue.index.keys import hash_ids
from segue.index.staging import writing

SECRET, PERSON = "item-to-be-forgotten", "person-to-be-forgotten"


def fill(world, *, fresh, codec="float32"):
    """Six items, the third with a telling id; returns the gallery and the vectors."""
    gallery, vectors = world.create(codec=codec), unit(6)
    names = ["a", "b", SECRET, "d", "e", "f"]
    people = ["p", "p", PERSON, "q", "q", None]
    gallery.enroll_vectors(new_items(names, people), "faces/1", {"embedding": vectors}, fresh=fresh)
    return gallery, vectors


@pytest.mark.parametrize("codec", ["float32", "int8"])
@pytest.mark.parametrize("fresh", [True, False])
def test_an_erased_item_is_in_no_file_any_more(world, fresh, codec):
    """Id, identity and vector are in no byte of database, log, segments, keys and index files."""
    gallery, vectors = fill(world, fresh=fresh, codec=codec)
    gallery.search(probe("faces/1", vectors[2]))
    raw = gallery.item(SECRET)[0].vector.astype("<f4").tobytes()
    assert SECRET.encode() in world.content()
    done = gallery.erase([SECRET], wait=0.2)
    assert (done.items, done.swept) == (1, True)
    content = world.content()
    assert SECRET.encode() not in content
    assert PERSON.encode() not in content
    assert raw not in content
    assert sorted(ids(gallery.search(probe("faces/1", vectors[2]))[0])) == ["a", "b", "d", "e", "f"]
    assert gallery.check() == []
    assert gallery.stats().pending_erasures == 0
    with pytest.raises(UnknownItemError):
        gallery.erase([SECRET])


@pytest.mark.parametrize("fresh", [True, False])
def test_an_identity_goes_with_all_its_items(world, fresh):
    """Erasing a person erases every item of theirs, and only theirs."""
    gallery, vectors = fill(world, fresh=fresh)
    assert gallery.erase(identity="q").items == 2
    hits = gallery.search(probe("faces/1", vectors[3]))[0]
    assert {hit.identity for hit in hits} == {"p", PERSON, None}
    with pytest.raises(UnknownItemError):
        gallery.erase(identity="q")
    with pytest.raises(UsageError):
        gallery.erase()
    with pytest.raises(UsageError):
        gallery.erase(["a"], identity="p")


def test_an_unknown_item_erases_nothing(world):
    """One unknown id among several refuses the whole erasure."""
    gallery, _ = fill(world, fresh=False)
    with pytest.raises(UnknownItemError):
        gallery.erase(["a", "nobody"])
    assert gallery.count_items() == 6


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("blocked_by", ["reader", "writer"])
def test_only_what_is_not_yet_swept_can_be_erased_again(world, fresh, blocked_by):
    """While a sweep waits, a typo is still refused whole, and the same call still finishes it."""
    gallery, _ = fill(world, fresh=fresh)

    @contextmanager
    def reading():
        with world.database.read() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM galleries").all()
            yield

    with reading() if blocked_by == "reader" else writing(world.root / "galleries/door"):
        assert gallery.erase([SECRET], wait=0.01).swept is False
        assert gallery.erase(identity="q", wait=0.01) == Erasure(2, swept=False)
        for opened in (gallery, world.open()):
            with pytest.raises(UnknownItemError, match="'typo'"):
                opened.erase(["a", SECRET, "typo", "other typo"], wait=0.01)
            with pytest.raises(UnknownItemError, match="nobody"):
                opened.erase(identity="nobody", wait=0.01)
            with pytest.raises(UnknownItemError):
                opened.erase(["-"], wait=0.01)
            assert opened.erase([SECRET, "d"], wait=0.01) == Erasure(0, swept=False)
            assert opened.erase(identity=PERSON, wait=0.01) == Erasure(0, swept=False)
        assert gallery.count_items() == 3
    assert gallery.erase(identity="q", wait=0.2) == Erasure(0, swept=True)
    assert SECRET.encode() not in world.content()
    assert f"{int(hash_ids([SECRET])[0]):016x}".encode() not in world.content()
    for again in ({"item_ids": [SECRET]}, {"identity": "q"}):
        with pytest.raises(UnknownItemError):
            gallery.erase(**again)
    assert gallery.count_items() == 3


def test_the_last_item_leaves_no_segment(world):
    """A segment whose every item is erased is removed, not kept empty."""
    gallery, vectors = world.create(), unit(2)
    gallery.enroll_vectors(new_items(["a", "b"]), "faces/1", {"embedding": vectors}, fresh=False)
    gallery.erase(["a", "b"])
    assert world.files() == set()
    assert gallery.search(probe("faces/1", vectors[0])) == [[]]


def test_a_reader_in_the_way_delays_the_sweep_and_not_the_erasure(world):
    """While a reader holds the database, the item is gone from answers; the same call ends it."""
    gallery, vectors = fill(world, fresh=False)
    gallery.search(probe("faces/1", vectors[2]))
    with world.database.read() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM galleries").all()
        done = gallery.erase([SECRET], wait=0.05)
        assert (done.items, done.swept) == (1, False)
        assert SECRET not in ids(gallery.search(probe("faces/1", vectors[2]), k=10)[0])
        assert gallery.stats().pending_erasures == 1
    again = gallery.erase([SECRET], wait=0.2)
    assert (again.items, again.swept) == (0, True)
    assert SECRET.encode() not in world.content()


def test_a_writer_in_the_way_delays_the_sweep(world):
    """While somebody writes files, nothing is swept: their files are not leftovers."""
    gallery, vectors = fill(world, fresh=False)
    gallery.search(probe("faces/1", vectors[2]))
    before = world.files()
    with writing(world.root / "galleries/door"):
        assert not gallery.erase([SECRET], wait=0.05).swept
        assert world.files() == before
        # The cached Faiss index and the segment still hold it; no answer does.
        for opened in (gallery, world.open()):
            assert SECRET not in ids(opened.search(probe("faces/1", vectors[2]), k=10)[0])
            assert opened.sql("SELECT count(*) FROM embeddings")[1] == [(5,)]
            assert opened.sql("SELECT count(*) FROM stored_0")[1] == [(5,)]
            assert opened.check() == []
        with pytest.raises(LockedError):
            gallery.compact(wait=0.05)
    assert gallery.erase([SECRET], wait=0.2).swept
    assert SECRET.encode() not in world.content()


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("swept", [True, False])
def test_a_stale_worker_cannot_write_an_erased_item(world, monkeypatch, fresh, swept):
    """A batch read before an erasure is committed without the erased item, however late."""
    monkeypatch.setattr("segue.index.gallery.FRESH_BELOW", 1000 if fresh else 0)
    gallery, _ = fill(world, fresh=False)
    items = gallery.pending("faces/2", limit=6)
    batch = Reembedded("faces/2", tuple(items), {"embedding": unit(6, seed=1)})
    if swept:
        gallery.erase([SECRET])
    else:
        with writing(world.root / "galleries/door"):
            gallery.erase([SECRET], wait=0.01)
    with acquire_lease(world.database, "door", "migration") as lease:
        assert gallery.commit_reembedded(batch, lease=lease) == 5
    assert gallery.stats().rows["faces/2", "embedding"] == 5
    gallery.compact()
    assert SECRET.encode() not in world.content()
    assert gallery.check() == []


def test_a_fold_cannot_write_an_erased_item(world, monkeypatch):
    """Rows erased between a fold's reading and its commit are left out of the segment."""
    from segue.index import commit

    gallery, _ = fill(world, fresh=True)
    real, calls = commit._swap_fresh, []

    def erase_first(*arguments):
        calls.append(1)
        if len(calls) == 1:
            world.open().erase([SECRET], wait=0.01)
        return real(*arguments)

    monkeypatch.setattr(commit, "_swap_fresh", erase_first)
    gallery.files()
    assert len(calls) == 2
    assert gallery.count_items() == 5
    gallery.compact()
    assert SECRET.encode() not in world.content()
    assert gallery.check() == []


def test_an_index_of_before_an_erasure_is_not_published(world):
    """An index built from a snapshot older than the last erasure is refused and removed."""
    import faiss

    gallery, vectors = fill(world, fresh=False)
    view = gallery._shelf.view()
    gallery.erase(["a"])
    index = faiss.IndexIDMap(faiss.IndexFlatL2(D))
    index.add_with_ids(vectors, np.arange(6))
    files = world.files()
    assert not save_index(gallery._shelf, view, ("faces/1", "embedding"), index)
    assert world.files() == files


def test_a_number_is_never_given_twice(world):
    """Items enrolled after an erasure get numbers above every number given before."""
    gallery, _ = fill(world, fresh=False)
    gallery.erase(["e", "f"])
    gallery.enroll_vectors(new_items(["f"]), "faces/1", {"embedding": unit(1, seed=3)})
    assert gallery.item("f")[0].item.seq == 6


def test_leftovers_of_a_killed_commit_are_never_read_and_go_away(world, monkeypatch):
    """Files whose transaction never came are in no answer, and compacting removes them."""
    gallery, vectors = fill(world, fresh=False)
    listed = world.files()

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr("segue.index.commit._list", killed)
    monkeypatch.setattr("segue.index.commit._unlink_unlisted", lambda *_: None)
    with pytest.raises(Killed):
        gallery.enroll_vectors(
            new_items(["x"]), "faces/1", {"embedding": unit(1, seed=5)}, fresh=False
        )
    monkeypatch.undo()
    assert len(world.files() - listed) == 2
    (world.root / "galleries/door/segments/.half.parquet.aa.staged").write_bytes(b"half")
    assert "x" not in ids(gallery.search(probe("faces/1", vectors[0]), k=10)[0])
    gallery.compact()
    assert world.files() - listed == {f for f in world.files() if f.endswith(".faiss")}
    assert gallery.check() == []


def test_an_answer_lost_after_the_commit_keeps_its_files(world, monkeypatch):
    """An interruption just after the transaction leaves the committed files where they are."""
    from segue.index import commit

    gallery, _ = fill(world, fresh=False)
    real = commit._list

    def interrupted(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(commit, "_list", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gallery.enroll_vectors(
            new_items(["x"]), "faces/1", {"embedding": unit(1, seed=5)}, fresh=False
        )
    monkeypatch.undo()
    assert gallery.count_items() == 7
    assert gallery.check() == []


def test_searches_go_on_while_items_are_erased(world):
    """Threads that search during erasures and folds get whole answers, without erased items."""
    gallery, vectors = world.create(), unit(40)
    for start in range(0, 40, 10):
        items = new_items([str(n) for n in range(start, start + 10)])
        part = {"embedding": vectors[start : start + 10]}
        gallery.enroll_vectors(items, "faces/1", part, fresh=start % 20 == 0)
    gone: list[int] = []
    wrong: list[object] = []
    stop = threading.Event()

    def look():
        opened = world.open()
        while not stop.is_set():
            before = set(gone)
            found = {hit.seq for hit in opened.search(probe("faces/1", vectors[0]), k=40)[0]}
            if found & before or len(found) < 40 - len(gone) - 1:
                wrong.append((found, before))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for seq in (3, 14, 25, 36):
        gallery.erase([str(seq)], wait=0.5)
        gone.append(seq)
        gallery._shelf.view()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    gallery.compact()
    assert gallery.check() == []
