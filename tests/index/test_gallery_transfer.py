from __future__ import annotations

import csv
import struct

import numpy as np
import pytest
from gallery_world import D, new_items, unit

from segue.errors import DataError, DuplicateItemError, MissingPathError, UsageError, VectorError
from segue.index import NewItem
from segue.index.transfer import read_npy


@pytest.fixture
def filled(world):
    gallery = world.create()
    items = [NewItem(f"i{n}", f"p{n % 2}" if n else None, f"s3://{n}", "ab" * 32) for n in range(6)]
    gallery.enroll_vectors(items[:4], "faces/1", {"embedding": unit(6)[:4]}, fresh=False)
    gallery.enroll_vectors(items[4:], "faces/1", {"embedding": unit(6)[4:]}, fresh=True)
    return gallery


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
@pytest.mark.parametrize("codec", ["float32", "int8"])
def test_what_is_exported_can_be_imported(world, filled, tmp_path, suffix, codec):
    """An export brings ids, people, sources and vectors into another gallery."""
    path = tmp_path / f"out{suffix}"
    assert filled.export(path) == 6
    other = world.create("other", codec=codec)
    assert other.import_file(path, "faces/1") == 6
    for n in range(6):
        (row,), (again,) = filled.item(f"i{n}"), other.item(f"i{n}")
        assert again.item == row.item
        tolerance = 1e-6 if codec == "float32" else 0.01
        np.testing.assert_allclose(again.vector, row.vector, atol=tolerance)


def test_segments_themselves_can_be_imported(world, filled):
    """The files that a gallery prints are imports as they are, int8 too."""
    small = world.create("small", codec="int8")
    small.enroll_vectors(new_items(["a", "b"]), "faces/1", {"embedding": unit(2)})
    for gallery, count in ((filled, 4), (small, 2)):
        other = world.create(f"copy-of-{gallery.name}", codec=gallery.codec)
        path = max(gallery.files(), key=lambda p: p.stat().st_size)
        assert other.import_file(path, "faces/1") == count


def test_live_rows_are_exported_by_default_and_one_versions_on_demand(world, filled, tmp_path):
    """The default is each item's live row; a version gives all of its rows."""
    import pyarrow.parquet as pq

    world.serve(filled, "faces/2", "faces/1")
    world.write(filled, "faces/2", filled.pending("faces/2", limit=2), unit(2, seed=1))
    path = tmp_path / "out.parquet"
    assert filled.export(path) == 6
    table = pq.read_table(path)
    assert table["item_id"].to_pylist() == [f"i{n}" for n in range(6)]
    assert table["version"].to_pylist() == ["faces/2"] * 2 + ["faces/1"] * 4
    assert filled.export(path, version="faces/2") == 2
    assert filled.export(path, version="faces/3") == 0
    with pytest.raises(UsageError):
        filled.export(tmp_path / "out.txt")


def test_vectors_of_several_dimensions_are_no_single_array(world, filled, tmp_path):
    """A mixed gallery of two dimensions exports to Parquet, and says why not to .npy."""
    world.register("wide/1", {"embedding": 16})
    world.serve(filled, "wide/1", "faces/1")
    world.write(filled, "wide/1", filled.pending("wide/1", limit=2), unit(2, 16))
    assert filled.export(tmp_path / "out.parquet") == 6
    with pytest.raises(DataError, match="dimensions"):
        filled.export(tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()


def test_ids_of_an_array_come_from_a_list_or_a_table(world, tmp_path):
    """A .txt file has one id a line; a .csv file may add identity and source."""
    gallery = world.create()
    np.save(tmp_path / "v.npy", 3 * unit(4)[:2])
    (tmp_path / "names.txt").write_text("ä\nb c\n", encoding="utf-8")
    with pytest.raises(VectorError):
        gallery.import_file(tmp_path / "v.npy", "faces/1", ids=tmp_path / "names.txt")
    done = gallery.import_file(
        tmp_path / "v.npy", "faces/1", ids=tmp_path / "names.txt", normalise=True
    )
    assert done == 2
    np.testing.assert_allclose(gallery.item("b c")[0].vector, unit(4)[1], atol=1e-6)
    with (tmp_path / "v.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["item_id", "identity"], ["x", "Ada, L."], ["y", ""]])
    gallery.import_file(tmp_path / "v.npy", "faces/1", normalise=True)
    assert gallery.item("x")[0].item.identity == "Ada, L."
    assert gallery.item("y")[0].item.identity is None


def test_a_file_of_several_outputs_brings_all_of_them(world, tmp_path):
    """Rows named by output become one item with a vector in each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    world.register("wide/1", {"embedding": 16, "compatible": D})
    world.edge("faces/1", "wide/1", stored_output="compatible")
    gallery = world.create(serving="wide/1")
    with world.database.write() as connection:
        gallery.set_serving(connection, "wide/1", ["wide/1", "faces/1"], [])
    wide, small = unit(2, 16), unit(2)
    table = {
        "item_id": ["b", "a", "a", "b"],
        "output": ["embedding", "embedding", "compatible", "compatible"],
        "vector": [v.tolist() for v in (wide[1], wide[0], small[0], small[1])],
    }
    pq.write_table(pa.table(table), tmp_path / "v.parquet")
    assert gallery.import_file(tmp_path / "v.parquet", "wide/1") == 2
    rows = {row.output: row.vector for row in gallery.item("a")}
    np.testing.assert_allclose(rows["embedding"], wide[0], atol=1e-6)
    np.testing.assert_allclose(rows["compatible"], small[0], atol=1e-6)
    pq.write_table(pa.table({k: v[:3] for k, v in table.items()}), tmp_path / "half.parquet")
    with pytest.raises(DataError, match="same items"):
        gallery.import_file(tmp_path / "half.parquet", "wide/1")


def test_an_array_is_read_as_it_is(tmp_path):
    """Shape, order and dtype of an array of numbers are kept; an empty one is read too."""
    arrays = [unit(3), np.asfortranarray(unit(3)), np.float64([1, 2]), np.empty((0, D)), np.int8(4)]
    for array in arrays:
        np.save(tmp_path / "v.npy", array)
        found = read_npy(tmp_path / "v.npy")
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert (found == array).all()
    for path in (tmp_path, tmp_path / "none.npy"):
        with pytest.raises(MissingPathError):
            read_npy(path)


def _parquet(path, **columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)


def _npy(shape, descr="<f4", content=b"", version=b"\x01\x00"):
    """Write a .npy file whose header declares what it likes, and its one id."""

    def write(path):
        header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        size = struct.pack("<H" if version[0] == 1 else "<I", len(header))
        path.write_bytes(b"\x93NUMPY" + version + size + header + content)
        path.with_suffix(".txt").write_text("a\n")

    return write


BAD = {
    "huge.npy": (_npy((100_000_000_000, 128)), VectorError),
    "overflow.npy": (_npy((2**40, 2**40)), VectorError),
    "negative.npy": (_npy((-1, 8)), VectorError),
    "truncated.npy": (_npy((1, 8), content=bytes(31)), VectorError),
    "wide-header.npy": (_npy((2**35, 2**35), version=b"\x02\x00"), VectorError),
    "later.npy": (_npy((1, 8), content=bytes(32), version=b"\x03\x00"), VectorError),
    "words.npy": (_npy((1, 8), descr="<U1", content=bytes(32)), VectorError),
    "complex.npy": (_npy((1, 8), descr="<c8", content=bytes(64)), VectorError),
    "no-shape.npy": (_npy("(1, (8"), VectorError),
    "text-shape.npy": (_npy("('x',)"), VectorError),
    "deep.npy": (_npy("(" * 5000), VectorError),
    "signs.npy": (_npy("-" * 9000 + "1"), VectorError),
    "newest.npy": (lambda p: p.write_bytes(b"\x93NUMPY\x09\x00"), VectorError),
    "missing.parquet": (None, MissingPathError),
    "text.csv": (lambda p: p.write_text("x"), UsageError),
    "broken.parquet": (lambda p: p.write_bytes(b"PAR1 no"), DataError),
    "broken.npy": (lambda p: p.write_bytes(b"\x93NUMPY"), VectorError),
    "pickled.npy": (lambda p: np.save(p, np.array([{}]), allow_pickle=True), VectorError),
    "lonely.npy": (lambda p: np.save(p, unit(2)), MissingPathError),
    "no-vector.parquet": (lambda p: _parquet(p, item_id=["a"]), DataError),
    "ragged.parquet": (
        lambda p: _parquet(p, item_id=["a", "b"], vector=[[1.0], [0.6, 0.8]]),
        VectorError,
    ),
    "texts.parquet": (lambda p: _parquet(p, item_id=["a"], vector=[["x"] * D]), VectorError),
    "null.parquet": (lambda p: _parquet(p, item_id=["a"], vector=[[None] * D]), VectorError),
    "narrow.parquet": (
        lambda p: _parquet(p, item_id=["a"], vector=unit(1, D - 1).tolist()),
        VectorError,
    ),
    "other.parquet": (
        lambda p: _parquet(p, item_id=["a"], vector=unit(1).tolist(), version=["faces/2"]),
        DataError,
    ),
    "twice.parquet": (
        lambda p: _parquet(p, item_id=["a", "a"], vector=unit(2).tolist()),
        DataError,
    ),
    "no-id.parquet": (lambda p: _parquet(p, item_id=[None], vector=unit(1).tolist()), DataError),
    "known.parquet": (
        lambda p: _parquet(p, item_id=["new", "i1"], vector=unit(2).tolist()),
        DuplicateItemError,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_whole(filled, world, tmp_path, name):
    """Whatever is wrong with a file, one error of ours says it and nothing was changed."""
    write, error = BAD[name]
    path = tmp_path / name
    if write is not None:
        write(path)
    before = filled._row(), world.files(), filled.sql("SELECT * FROM embeddings ORDER BY seq")
    with pytest.raises(error):
        filled.import_file(path, "faces/1")
    after = filled._row(), world.files(), filled.sql("SELECT * FROM embeddings ORDER BY seq")
    assert after == before


def test_a_sample_has_vectors_with_an_identity_only(filled):
    """A seeded sample draws rows of people that are known, without replacement."""
    vectors, people = filled.sample_vectors("faces/1", limit=100)
    assert vectors.shape == (5, D)
    assert people == ["p1", "p0", "p1", "p0", "p1"]
    few, _ = filled.sample_vectors("faces/1", limit=2, seed=1)
    assert (few == filled.sample_vectors("faces/1", limit=2, seed=1)[0]).all()
    assert len(few) == 2
    assert filled.sample_vectors("faces/2", limit=2)[1] == []
