from __future__ import annotations

import os
import socket

import numpy as np
import pytest
import sqlalchemy as sa
from gallery_world import D, DrawnEmbedder, image_bytes, new_items, probe, unit

from segue import database as tables
from segue.errors import (
    ItemsLeftError,
    LockedError,
    UnknownNameError,
    UnknownVersionError,
    UsageError,
    VectorError,
)
from segue.index import NewItem, Reembedded, StoredItem, acquire_lease


@pytest.fixture
def pictured(world, tmp_path):
    """Six items enrolled from image files by faces/1."""
    gallery = world.create()
    folder = tmp_path / "faces"
    folder.mkdir()
    items = []
    for n in range(6):
        (folder / f"{n}.png").write_bytes(image_bytes(n))
        items.append(NewItem(f"i{n}", f"p{n % 2}", str(folder / f"{n}.png")))
    gallery.enroll(items, [DrawnEmbedder("faces/1")])
    return gallery, folder


def seqs(items):
    return [item.seq for item in items]


def test_pending_items_come_in_the_order_asked_for(pictured):
    """Oldest by number, random by seed and the same each time; what is skipped stays out."""
    gallery, _ = pictured
    assert seqs(gallery.pending("faces/2", order="oldest", limit=4)) == [0, 1, 2, 3]
    assert seqs(gallery.pending("faces/2", order="oldest", limit=3, skip={0, 2, 99})) == [1, 3, 4]
    random = seqs(gallery.pending("faces/2", order="random", limit=6, seed=1))
    assert sorted(random) == list(range(6))
    assert random == seqs(gallery.pending("faces/2", order="random", limit=6, seed=1))
    orders = {
        tuple(seqs(gallery.pending("faces/2", order="random", limit=6, seed=s))) for s in range(9)
    }
    assert len(orders) > 5
    assert gallery.pending("faces/2", limit=0) == []
    with pytest.raises(UnknownNameError):
        gallery.pending("faces/2", order="newest", limit=1)
    with pytest.raises(UnknownVersionError):
        gallery.pending("faces/9", limit=1)


@pytest.mark.parametrize("fresh", [True, False])
def test_farthest_is_by_the_distance_to_the_mean_of_the_identity(world, fresh):
    """Items far from their identity's mean come first; those without identity last."""
    gallery, vectors = world.create(), unit(12)
    people = ["p", "q", None] * 4
    gallery.enroll_vectors(
        new_items([str(n) for n in range(12)], people),
        "faces/1",
        {"embedding": vectors},
        fresh=fresh,
    )
    expected = {}
    for n, person in enumerate(people):
        same = [vectors[m] for m in range(12) if people[m] == person]
        mean = np.sum(same, axis=0, dtype=np.float64)
        mean /= np.linalg.norm(mean)
        expected[n] = 0.0 if person is None else float(((vectors[n] - mean) ** 2).sum())
    order = sorted(expected, key=lambda n: (-expected[n], n))
    assert seqs(gallery.pending("faces/2", order="farthest", limit=12)) == order


def test_a_batch_is_embedded_from_its_images_and_committed(pictured, world):
    """Re-embedded vectors are the embedder's; what is left shrinks by what was committed."""
    gallery, folder = pictured
    embedder = DrawnEmbedder("faces/2")
    batch = gallery.reembed(gallery.pending("faces/2", limit=4), embedder)
    assert (batch.rows, batch.failed) == ({"embedding": 4}, ())
    with acquire_lease(world.database, "door", "migration") as lease:
        told = []
        assert gallery.commit_reembedded(batch, lease=lease, also=told.append) == 4
    assert len(told) == 1
    assert gallery.count_pending("faces/2") == 2
    from segue.images import decode

    expected = embedder.embed(decode(folder / "2.png", (8, 8))[None])["embedding"][0]
    stored = {row.version: row.vector for row in gallery.item("i2")}
    np.testing.assert_allclose(stored["faces/2"], expected, atol=1e-6)
    rows = gallery.item("i2")
    assert rows[0].item == rows[1].item


def test_items_that_fail_say_why_without_saying_who(pictured):
    """Missing, changed, undecodable and NaN images fail with a reason that names nothing."""
    gallery, folder = pictured
    (folder / "0.png").unlink()
    (folder / "1.png").write_bytes(image_bytes(77))
    (folder / "2.png").write_bytes(b"no image")

    class Sick(DrawnEmbedder):
        def embed(self, images):
            found = super().embed(images)
            found["embedding"][-1] = np.inf
            return found

    items = gallery.pending("faces/2", limit=6)
    batch = gallery.reembed(items, Sick("faces/2"))
    assert sorted(seq for seq, _ in batch.failed) == [0, 1, 2, 5]
    assert seqs(batch.items) == [3, 4]
    for _, reason in batch.failed:
        assert "png" not in reason
        assert str(folder) not in reason
    unchecked = gallery.reembed(items, DrawnEmbedder("faces/2"), check_source=False)
    assert sorted(seq for seq, _ in unchecked.failed) == [0, 2]
    everything = gallery.reembed(items[:1], DrawnEmbedder("faces/2"))
    assert everything.items == ()


def test_a_source_that_is_no_file_fails_and_never_hangs(pictured):
    """Devices, pipes, folders and sources that are no path are failures of their item alone."""
    gallery, folder = pictured
    os.mkfifo(folder / "pipe.png")
    sources = [
        "/dev/zero",
        str(folder / "pipe.png"),
        str(folder),
        "a\0b",
        "file://[",
        "file:///%00",
    ]
    items = [StoredItem(n, f"i{n}", None, source, None) for n, source in enumerate(sources)]
    batch = gallery.reembed(items, DrawnEmbedder("faces/2"))
    assert [seq for seq, _ in batch.failed] == list(range(6))
    assert {reason for _, reason in batch.failed[:2]} == {"it is no regular file"}
    new = [NewItem(f"new {n}", None, source) for n, source in enumerate(sources)]
    assert len(gallery.enroll(new, [DrawnEmbedder("faces/1")]).failed) == 6
    assert gallery.count_items() == 6


def test_an_image_that_the_model_refuses_fails_alone(pictured):
    """When the embedder refuses a batch for one image, only that item is put aside."""
    gallery, folder = pictured
    from segue.images import decode

    sick = decode(folder / "4.png", (8, 8))

    class Strict(DrawnEmbedder):
        def embed(self, images):
            if any((image == sick).all() for image in images):
                raise VectorError("a vector with NaN")
            return super().embed(images)

    batch = gallery.reembed(gallery.pending("faces/2", limit=6), Strict("faces/2"))
    assert [seq for seq, _ in batch.failed] == [4]
    assert seqs(batch.items) == [0, 1, 2, 3, 5]
    expected = DrawnEmbedder("faces/2").embed(decode(folder / "5.png", (8, 8))[None])["embedding"]
    np.testing.assert_allclose(batch.vectors["embedding"][-1:], expected, atol=1e-6)
    again = [NewItem(f"new {n}", None, str(folder / f"{n}.png")) for n in range(6)]
    done = gallery.enroll(again, [Strict("faces/1")])
    assert (done.enrolled, [x.item_id for x in done.failed]) == (5, ["new 4"])


def test_an_embedder_without_a_needed_output_is_refused(world, pictured):
    """An output that an edge names is not silently left out."""
    gallery, _ = pictured
    world.register("wide/1", {"embedding": 16, "compatible": D})
    world.edge("faces/1", "wide/1", stored_output="compatible")
    items = gallery.pending("wide/1", limit=2)
    with pytest.raises(UsageError, match="compatible"):
        gallery.reembed(items, DrawnEmbedder("wide/1", {"embedding": 16}))
    whole = DrawnEmbedder("wide/1", {"embedding": 16, "compatible": D, "unused": 4})
    assert set(gallery.reembed(items, whole).vectors) == {"embedding", "compatible"}


def test_an_item_with_half_of_its_outputs_is_still_pending(world):
    """An item counts as migrated when it has every output that an edge needs."""
    world.register("wide/1", {"embedding": 16, "compatible": D})
    gallery = world.create()
    gallery.enroll_vectors(new_items(["a", "b"]), "faces/1", {"embedding": unit(2)})
    world.write(gallery, "wide/1", gallery.pending("wide/1", limit=1), unit(1, 16))
    assert gallery.count_pending("wide/1") == 1
    world.edge("faces/1", "wide/1", stored_output="compatible")
    assert gallery.count_pending("wide/1") == 2
    left = gallery.pending("wide/1", limit=2)
    world.write(gallery, "wide/1", left, {"embedding": unit(2, 16), "compatible": unit(2)})
    assert gallery.count_pending("wide/1") == 0
    assert gallery.check() == []


@pytest.mark.parametrize("limit", [0, 1000])
def test_a_batch_is_written_once_and_only_for_items_that_exist(world, monkeypatch, limit):
    """Rows that are there already, and rows of unknown items, are left out of a commit."""
    monkeypatch.setattr("segue.index.gallery.FRESH_BELOW", limit)
    gallery = world.create()
    gallery.enroll_vectors(new_items(["a", "b", "c"]), "faces/1", {"embedding": unit(3)})
    items = gallery.pending("faces/2", limit=3)
    assert world.write(gallery, "faces/2", items[:2], unit(2)) == 2
    before = gallery.item("a")
    assert world.write(gallery, "faces/2", items, unit(3, seed=5)) == 1
    assert gallery.item("a")[1].embedded_at == before[1].embedded_at
    gallery.enroll_vectors(new_items(["c"]), "faces/1", {"embedding": unit(1)}, replace=True)
    stranger = StoredItem(2, "c", None, None, None)
    assert world.write(gallery, "faces/3", [stranger], unit(1)) == 0
    assert gallery.check() == []


@pytest.mark.parametrize("limit", [0, 1000])
def test_an_output_that_became_necessary_is_added(world, monkeypatch, limit):
    """Items that have one output get the other, are counted once each, and keep the first."""
    monkeypatch.setattr("segue.index.gallery.FRESH_BELOW", limit)
    world.register("wide/1", {"embedding": 16, "compatible": D})
    gallery = world.create()
    gallery.enroll_vectors(new_items(["a", "b", "c"]), "faces/1", {"embedding": unit(3)})
    items = gallery.pending("wide/1", limit=3)
    world.write(gallery, "wide/1", items[:2], unit(2, 16))
    before = gallery.item("a")[1]
    world.edge("faces/1", "wide/1", stored_output="compatible")
    both = {"embedding": unit(3, 16, seed=5), "compatible": unit(3)}
    assert world.write(gallery, "wide/1", items, both) == 3
    assert gallery.count_pending("wide/1") == 0
    assert world.write(gallery, "wide/1", items, both) == 0
    assert gallery.stats().rows == {
        ("faces/1", "embedding"): 3,
        ("wide/1", "embedding"): 3,
        ("wide/1", "compatible"): 3,
    }
    kept = next(
        row for row in gallery.item("a") if row.output == "embedding" and len(row.vector) > D
    )
    assert (kept.vector == before.vector).all()
    assert gallery.check() == []


def test_also_and_the_batch_are_one_transaction(world):
    """What a migration writes beside a batch is rolled back with it, and the batch with it."""
    gallery = world.create()
    gallery.enroll_vectors(new_items(["a"]), "faces/1", {"embedding": unit(1)})
    items = gallery.pending("faces/2", limit=1)
    batch = Reembedded("faces/2", tuple(items), {"embedding": unit(1)})

    def fail(connection):
        connection.execute(tables.touched.insert().values(gallery="door", seq=0, at="now"))
        raise ZeroDivisionError

    lease = acquire_lease(world.database, "door", "migration")
    with pytest.raises(ZeroDivisionError):
        gallery.commit_reembedded(batch, lease=lease, also=fail)
    assert gallery.count_pending("faces/2") == 1
    with world.database.read() as connection:
        assert connection.scalars(sa.select(tables.touched.c.seq)).all() == []


@pytest.mark.parametrize("fresh", [True, False])
def test_removing_a_version_leaves_what_only_it_has(world, fresh):
    """Old rows go in one commit; items that nothing else has keep theirs, or refuse it."""
    gallery, vectors = world.create(), unit(6)
    gallery.enroll_vectors(
        new_items([str(n) for n in range(6)]), "faces/1", {"embedding": vectors}, fresh=fresh
    )
    world.write(gallery, "faces/2", gallery.pending("faces/2", limit=4), unit(4, seed=1))
    world.serve(gallery, "faces/2", "faces/1")
    before = world.files()
    with pytest.raises(ItemsLeftError) as caught:
        gallery.remove_version("faces/1", keep_only_there=False)
    assert caught.value.left == 2
    assert world.files() == before
    told = []
    assert gallery.remove_version("faces/1", keep_only_there=True, also=told.append) == 4
    assert len(told) == 1
    assert gallery.stats().rows == {("faces/1", "embedding"): 2, ("faces/2", "embedding"): 4}
    assert gallery.count_items() == 6
    assert gallery.remove_version("faces/1", keep_only_there=True) == 0
    assert gallery.check() == []


def test_a_removal_whose_companion_write_fails_changes_nothing(world):
    """An error in what belongs to the removal keeps every row and file."""
    gallery = world.create()
    gallery.enroll_vectors(new_items(["a", "b"]), "faces/1", {"embedding": unit(2)}, fresh=False)
    world.write(gallery, "faces/2", gallery.pending("faces/2", limit=1), unit(1))
    before = world.files()

    def fail(_):
        raise ZeroDivisionError

    world.serve(gallery, "faces/2", "faces/1")
    with pytest.raises(ZeroDivisionError):
        gallery.remove_version("faces/1", keep_only_there=True, also=fail)
    assert world.files() == before
    assert gallery.stats().rows["faces/1", "embedding"] == 2


def test_the_serving_version_leads_what_is_preferred(world):
    """A serving version that is not preferred first, or not registered, is refused."""
    gallery = world.create()
    with pytest.raises(UsageError), world.database.write() as connection:
        gallery.set_serving(connection, "faces/2", ["faces/1"], [])
    with pytest.raises(UnknownVersionError):
        world.serve(gallery, "faces/9")
    world.serve(gallery, "faces/2", "faces/1", companions=["faces/1"])
    assert (gallery.serving, gallery.preference) == ("faces/2", ("faces/2", "faces/1"))
    assert gallery.companions == ("faces/1",)


def test_rho_is_the_share_of_each_live_version(world):
    """Statistics count live items by version, rows by version and output."""
    gallery = world.create()
    gallery.enroll_vectors(new_items([str(n) for n in range(4)]), "faces/1", {"embedding": unit(4)})
    world.serve(gallery, "faces/2", "faces/1")
    world.write(gallery, "faces/2", gallery.pending("faces/2", limit=3), unit(3))
    stats = gallery.stats()
    assert stats.rho == {"faces/2": 0.75, "faces/1": 0.25}
    assert stats.rows == {("faces/1", "embedding"): 4, ("faces/2", "embedding"): 3}
    assert gallery.count_items() == stats.items == 4


# --- leases ---------------------------------------------------------------------------------


def test_a_lease_has_one_holder_at_a_time(world):
    """A held lease names its holder to whoever asks; released, it can be taken again."""
    world.create()
    lease = acquire_lease(world.database, "door", "migration")
    with pytest.raises(LockedError) as caught:
        acquire_lease(world.database, "door", "migration")
    assert caught.value.holder == f"{socket.gethostname()}:{os.getpid()}"
    acquire_lease(world.database, "door", "other purpose").release()
    lease.renew()
    lease.release()
    acquire_lease(world.database, "door", "migration").release()


def test_a_worker_that_lost_its_lease_cannot_commit(world, monkeypatch):
    """After its lease expired and was taken, a worker's renewals and commits are refused."""
    gallery = world.create()
    gallery.enroll_vectors(new_items(["a"]), "faces/1", {"embedding": unit(1)})
    slow = acquire_lease(world.database, "door", "migration", seconds=-1)
    batch = Reembedded(
        "faces/2", tuple(gallery.pending("faces/2", limit=1)), {"embedding": unit(1)}
    )
    quick = acquire_lease(world.database, "door", "migration")
    for fresh in (0, 1000):
        monkeypatch.setattr("segue.index.gallery.FRESH_BELOW", fresh)
        with pytest.raises(LockedError):
            gallery.commit_reembedded(batch, lease=slow)
    with pytest.raises(LockedError):
        slow.renew()
    slow.release()
    assert world.files() == set()
    assert gallery.commit_reembedded(batch, lease=quick) == 1
    quick.release()
    with pytest.raises(LockedError):
        quick.renew()


@pytest.mark.parametrize(("holder", "free"), [("{host}:999999999", True), ("elsewhere:1", False)])
def test_the_lease_of_a_dead_process_of_this_machine_can_be_taken(world, holder, free):
    """A killed runner's lease is free at once; another machine's only when it expires."""
    world.create()
    acquire_lease(world.database, "door", "migration")
    with world.database.write() as connection:
        connection.execute(
            tables.leases.update().values(holder=holder.format(host=socket.gethostname()))
        )
    if free:
        acquire_lease(world.database, "door", "migration").release()
    else:
        with pytest.raises(LockedError):
            acquire_lease(world.database, "door", "migration")


def test_two_galleries_do_not_know_each_other(world):
    """Items, versions and erasures of one gallery leave another of the same ids as it is."""
    first, second = world.create("one"), world.create("two")
    for gallery in (first, second):
        gallery.enroll_vectors(
            new_items(["a", "b"]), "faces/1", {"embedding": unit(2)}, fresh=gallery is first
        )
    world.serve(first, "faces/2", "faces/1")
    world.write(first, "faces/2", first.pending("faces/2", limit=2), unit(2))
    first.erase(["a"])
    first.compact()
    assert second.count_items() == 2
    assert second.count_pending("faces/2") == 2
    assert len(second.search(probe("faces/1", unit(1)))[0]) == 2
    assert first.check() == second.check() == []


@pytest.mark.parametrize("fresh", [True, False])
def test_vectors_of_some_items_are_those_of_all(world, fresh):
    """Read by row group, from several segments and fresh rows, without what is erased."""
    gallery = world.create()
    for part in range(3):
        items = [NewItem(f"i{part}-{n}") for n in range(40)]
        vectors = {"embedding": unit(40, seed=part)}
        gallery.enroll_vectors(items, "faces/1", vectors, fresh=fresh and part == 2)
    gallery.erase(["i0-3", "i2-3"])
    view = gallery._shelf.view()
    seqs, vectors = view.vectors(("faces/1", "embedding"))
    draw = np.random.default_rng(0)
    for count in (0, 1, 7, 120):
        wanted = draw.permutation(130)[:count]
        some, found = view.vectors_of(("faces/1", "embedding"), wanted)
        kept = np.isin(seqs, wanted)
        assert np.array_equal(some, seqs[kept])
        assert np.array_equal(found, vectors[kept]) or not kept.any()
    assert gallery.stored_in("faces/1").sum() == 118
    assert not gallery.stored_in("faces/2").any()
