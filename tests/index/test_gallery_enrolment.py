from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from gallery_world import D, DrawnEmbedder, ids, image_bytes, new_items, probe, unit

from segue.errors import (
    DataError,
    DiskFullError,
    DuplicateItemError,
    GalleryError,
    GalleryExistsError,
    InvalidNameError,
    SegueError,
    UnknownGalleryError,
    UnknownItemError,
    UnknownNameError,
    UnknownVersionError,
    UsageError,
    VectorError,
)
from segue.files import sha256_bytes
from segue.index import Gallery, NewItem, list_galleries


def test_a_gallery_is_made_once_and_found_again(world):
    """Creating lists a gallery; a taken, bad or unknown name is refused with its own error."""
    gallery = world.create("door", codec="int8")
    assert (gallery.serving, gallery.preference, gallery.companions, gallery.codec) == (
        "faces/1",
        ("faces/1",),
        (),
        "int8",
    )
    assert list_galleries(world.database) == ["door"]
    with pytest.raises(GalleryExistsError):
        world.create("door")
    with pytest.raises(InvalidNameError):
        world.create("../door")
    with pytest.raises(UnknownNameError):
        world.create("other", codec="int4")
    with pytest.raises(UnknownVersionError):
        world.create("other", serving="faces/9")
    with pytest.raises(UnknownGalleryError):
        Gallery(world.database, world.root, "other")


@pytest.mark.parametrize("codec", ["float32", "int8"])
@pytest.mark.parametrize("fresh", [True, False])
def test_what_is_enrolled_is_what_is_stored(world, codec, fresh):
    """An item reads back with its identity, source and vector, from fresh rows and segments."""
    gallery, vectors = world.create(codec=codec), unit(3)
    items = [NewItem(f"i{n}", f"p{n}", f"s3://faces/{n}", "ab" * 32) for n in range(3)]
    assert gallery.enroll_vectors(items, "faces/1", {"embedding": vectors}, fresh=fresh) == 3
    (row,) = gallery.item("i1")
    assert (row.item.item_id, row.item.identity, row.item.source) == ("i1", "p1", "s3://faces/1")
    assert (row.item.seq, row.item.source_sha256, row.version) == (1, "ab" * 32, "faces/1")
    tolerance = 1e-6 if codec == "float32" else 0.01
    np.testing.assert_allclose(row.vector, vectors[1], atol=tolerance)
    assert gallery.stats().fresh == (3 if fresh else 0)
    assert gallery.stats().segments == (0 if fresh else 1)
    with pytest.raises(UnknownItemError):
        gallery.item("i9")


def test_few_items_land_as_fresh_rows_and_many_as_a_segment(world):
    """A thousand items at once become a segment; fewer stay in the catalog."""
    gallery = world.create()
    for start, count in ((0, 999), (999, 1000)):
        names = [str(n) for n in range(start, start + count)]
        vectors = unit(count, seed=start)
        gallery.enroll_vectors(new_items(names), "faces/1", {"embedding": vectors})
    assert (gallery.stats().fresh, gallery.stats().segments) == (999, 1)
    assert gallery.count_items() == 1999


def test_many_fresh_rows_are_folded_by_themselves(world, monkeypatch):
    """Fresh rows above the limit become a segment within the commit that passes it."""
    monkeypatch.setattr("segue.index.commit.FOLD_ABOVE", 3)
    gallery = world.create()
    for n in range(4):
        gallery.enroll_vectors(new_items([str(n)]), "faces/1", {"embedding": unit(1, seed=n)})
    stats = gallery.stats()
    assert (stats.items, stats.fresh, stats.segments) == (4, 0, 1)
    assert gallery.check() == []


BAD = {
    "NaN": np.full((2, D), np.nan, np.float32),
    "wrong dimension": unit(2, D + 1),
    "not of unit length": 3 * unit(2),
    "one vector missing": unit(1),
    "no matrix": np.zeros(D, np.float32),
}


@pytest.mark.parametrize("why", BAD)
@pytest.mark.parametrize("fresh", [True, False])
def test_bad_vectors_are_refused_whole(world, why, fresh):
    """Vectors that are not the version's change nothing, not even the catalog's counters."""
    gallery = world.create()
    before = gallery._row()
    with pytest.raises(VectorError):
        gallery.enroll_vectors(
            new_items(["a", "b"]), "faces/1", {"embedding": BAD[why]}, fresh=fresh
        )
    assert gallery._row() == before
    assert world.files() == set()


@pytest.mark.parametrize("names", [["a", "a"], ["", "b"], ["a\0", "b"], ["x" * 2000, "b"]])
def test_bad_ids_are_refused_whole(world, names):
    """An id that is empty, unusable or given twice refuses the whole enrolment."""
    gallery = world.create()
    with pytest.raises(DataError):
        gallery.enroll_vectors(new_items(names), "faces/1", {"embedding": unit(2)})
    assert gallery.count_items() == 0


def test_an_enrolment_needs_a_version_and_outputs_of_the_gallery(world):
    """Another version's vectors, unknown outputs and missing outputs are refused."""
    gallery = world.create()
    items = new_items(["a"])
    with pytest.raises(GalleryError):
        gallery.enroll_vectors(items, "faces/2", {"embedding": unit(1)})
    with pytest.raises(UnknownVersionError):
        gallery.enroll_vectors(items, "faces/9", {"embedding": unit(1)})
    with pytest.raises(VectorError, match="no output other"):
        gallery.enroll_vectors(items, "faces/1", {"embedding": unit(1), "other": unit(1)})
    with pytest.raises(VectorError, match="embedding"):
        gallery.enroll_vectors(items, "faces/1", {})
    assert gallery.count_items() == 0


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_an_item_id_is_unique_over_fresh_rows_and_segments(world, first, second):
    """An id that is there already refuses the whole enrolment, wherever it is stored."""
    gallery = world.create()
    gallery.enroll_vectors(new_items(["a", "b"]), "faces/1", {"embedding": unit(2)}, fresh=first)
    with pytest.raises(DuplicateItemError) as caught:
        gallery.enroll_vectors(
            new_items(["c", "b", "a"]), "faces/1", {"embedding": unit(3)}, fresh=second
        )
    assert (caught.value.item_id, caught.value.count) == ("b", 2)
    assert gallery.count_items() == 2
    assert gallery.check() == []


@pytest.mark.parametrize("fresh", [True, False])
def test_a_replaced_item_has_a_new_number_and_one_live_row(world, fresh):
    """Replacing gives the item a new `seq`; the old vector is never found again."""
    gallery, vectors = world.create(), unit(4)
    gallery.enroll_vectors(
        new_items(["a", "b"], ["p", "q"]), "faces/1", {"embedding": vectors[:2]}, fresh=fresh
    )
    gallery.enroll_vectors(
        new_items(["a", "c"]), "faces/1", {"embedding": vectors[2:]}, replace=True, fresh=fresh
    )
    hits = gallery.search(probe("faces/1", vectors[0]), k=10)[0]
    assert sorted(ids(hits)) == ["a", "b", "c"]
    assert {hit.item_id: hit.seq for hit in hits} == {"a": 2, "b": 1, "c": 3}
    assert gallery.item("a")[0].item.identity is None
    assert gallery.sql("SELECT count(*) FROM live") == (["count_star()"], [(3,)])
    gallery.files()
    assert gallery.stats().pending_erasures == 0
    assert gallery.check() == []


def test_ids_with_one_hash_are_told_apart(world, monkeypatch):
    """Two ids of one 64-bit hash are two items: the id itself is read to be sure."""

    def same_hash(item_ids):
        return np.zeros(len(item_ids), dtype=np.uint64)

    for module in ("keys", "snapshot", "check"):
        monkeypatch.setattr(f"segue.index.{module}.hash_ids", same_hash)
    gallery, vectors = world.create(), unit(4)
    gallery.enroll_vectors(
        new_items(["a", "b"]), "faces/1", {"embedding": vectors[:2]}, fresh=False
    )
    gallery.enroll_vectors(
        new_items(["c", "d"]), "faces/1", {"embedding": vectors[2:]}, fresh=False
    )
    with pytest.raises(DuplicateItemError):
        gallery.enroll_vectors(new_items(["b"]), "faces/1", {"embedding": vectors[:1]})
    assert gallery.item("c")[0].item.seq == 2
    assert gallery.erase(["a"]).items == 1
    assert gallery.count_items() == 3
    assert gallery.check() == []


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("which", range(1, 9))
def test_a_full_disk_changes_nothing(world, monkeypatch, fresh, which):
    """Whichever fsync finds the disk full, nothing is enrolled and no file is left."""
    gallery = world.create()
    gallery.enroll_vectors(new_items(["a"]), "faces/1", {"embedding": unit(1)}, fresh=fresh)
    files, calls, real = world.files(), [], os.fsync

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == which:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    try:
        gallery.enroll_vectors(
            new_items(["b"]), "faces/1", {"embedding": unit(1, seed=1)}, fresh=fresh
        )
    except DiskFullError:
        assert gallery.count_items() == 1
        assert world.files() == files
    else:
        assert fresh or len(calls) < which
        assert gallery.count_items() == 2
    monkeypatch.undo()
    assert gallery.check() == []


def test_a_full_disk_under_a_parquet_writer_is_told_as_one(world, monkeypatch):
    """A Parquet writer that runs out of space is a full disk, and nothing is left of its file."""
    import pyarrow.parquet as pq

    def full(_table, path, **_options):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    gallery = world.create()
    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(DiskFullError):
        gallery.enroll_vectors(new_items(["b"]), "faces/1", {"embedding": unit(1)}, fresh=False)
    assert world.files() == set()
    assert gallery.count_items() == 0


def _write_images(folder, count):
    folder.mkdir()
    for n in range(count):
        (folder / f"{n}.png").write_bytes(image_bytes(n))
    return [NewItem(str(n), f"p{n}", str(folder / f"{n}.png")) for n in range(count)]


def test_images_are_enrolled_and_the_undecodable_reported(world, tmp_path):
    """Images that cannot be read are failures with a reason; the others are enrolled."""
    gallery, embedder = world.create(), DrawnEmbedder("faces/1")
    items = _write_images(tmp_path / "faces", 5)
    (tmp_path / "faces/1.png").write_bytes(b"no image")
    (tmp_path / "faces/2.png").write_bytes(image_bytes(2)[:60])
    items += [
        NewItem("gone", None, str(tmp_path / "gone.png")),
        NewItem("none"),
        NewItem("u", None, "s3://x"),
    ]
    told = []
    done = gallery.enroll(
        items, [embedder], batch=2, progress=lambda *told_now: told.append(told_now)
    )
    assert done.enrolled == 3
    assert {f.item_id for f in done.failed} == {"1", "2", "gone", "none", "u"}
    assert not any(str(tmp_path) in f.reason for f in done.failed)
    assert told[-1] == (8, 8, "images embedded")
    row = gallery.item("3")[0]
    assert row.item.source_sha256 == sha256_bytes(image_bytes(3))
    assert row.item.source == str(tmp_path / "faces/3.png")


def test_relative_and_uri_sources_are_read(world, tmp_path, monkeypatch):
    """A relative path is stored as an absolute one, a file:// URI as it is."""
    gallery = world.create()
    _write_images(tmp_path / "some faces", 2)
    monkeypatch.chdir(tmp_path)
    uri = (tmp_path / "some faces/1.png").as_uri()
    items = [NewItem("a", None, "some faces/0.png"), NewItem("b", None, uri)]
    assert gallery.enroll(items, [DrawnEmbedder("faces/1")]).enrolled == 2
    assert gallery.item("a")[0].item.source == str(tmp_path / "some faces/0.png")
    assert gallery.item("b")[0].item.source == uri


def test_a_nan_of_the_model_is_a_failure_of_its_item(world, tmp_path):
    """An image for which the model gives NaN is reported, its neighbours are enrolled."""

    class Sick(DrawnEmbedder):
        def embed(self, images):
            found = super().embed(images)
            found["embedding"][1] = np.nan
            return found

    gallery = world.create()
    done = gallery.enroll(_write_images(tmp_path / "faces", 3), [Sick("faces/1")])
    assert (done.enrolled, [f.item_id for f in done.failed]) == (2, ["1"])


def test_new_items_are_embedded_by_the_companions_too(world, tmp_path):
    """With a companion, a new item gets both vectors in one commit; without its embedder, none."""
    gallery = world.create()
    items = _write_images(tmp_path / "faces", 3)
    world.serve(gallery, "faces/2", "faces/1", companions=["faces/1"])
    old, new = DrawnEmbedder("faces/1", input_size=(6, 6)), DrawnEmbedder("faces/2")
    for wrong in ([new], [old, new], []):
        with pytest.raises(UsageError):
            gallery.enroll(items, wrong)
    assert gallery.count_items() == 0
    gallery.enroll(items, [new, old])
    assert [row.version for row in gallery.item("0")] == ["faces/1", "faces/2"]
    assert gallery.stats().live == {"faces/2": 3, "faces/1": 0}


def test_an_enrolled_duplicate_is_told_before_anything_is_embedded(world, tmp_path):
    """A folder with an item that is there already is refused before the model runs."""
    gallery = world.create()
    items = _write_images(tmp_path / "faces", 3)
    gallery.enroll(items[2:], [DrawnEmbedder("faces/1")])
    with pytest.raises(DuplicateItemError):
        gallery.enroll(items, [DrawnEmbedder("faces/1", input_size=(0, 0))])
    assert gallery.enroll(items, [DrawnEmbedder("faces/1")], replace=True).enrolled == 3
    assert gallery.count_items() == 3


def test_errors_name_only_the_users_own_item(world):
    """No error of an enrolment repeats an identity or somebody else's item."""
    gallery = world.create()
    items = new_items(["one", "two"], ["Ada", "Grace"])
    gallery.enroll_vectors(items, "faces/1", {"embedding": unit(2)})
    for call in (
        lambda: gallery.enroll_vectors(items[1:], "faces/1", {"embedding": unit(1)}),
        lambda: gallery.erase(["three"]),
        lambda: gallery.enroll_vectors(items, "faces/1", {"embedding": 2 * unit(2)}),
    ):
        with pytest.raises(SegueError) as caught:
            call()
        assert not any(name in str(caught.value) for name in ("Ada", "Grace", "one"))
