from __future__ import annotations

import numpy as np
import pytest
from gallery_world import D, new_items, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segue.errors import CorruptSegmentError, FormatError
from segue.index.codec import decode_vectors, encode, stored_vectors
from segue.index.keys import hash_ids, open_keys, write_keys
from segue.index.segments import COLUMNS


@pytest.fixture
def two_versions(world):
    gallery = world.create()
    items = new_items([f"i{n}" for n in range(5)], ["p", None, "q", "q", "p"])
    gallery.enroll_vectors(items[:3], "faces/1", {"embedding": unit(3)}, fresh=False)
    gallery.enroll_vectors(items[3:], "faces/1", {"embedding": unit(2, seed=1)}, fresh=True)
    world.write(gallery, "faces/2", gallery.pending("faces/2", limit=2), unit(2, seed=2))
    return gallery


def test_plain_duckdb_reads_one_row_for_each_item_version_and_output(two_versions):
    """The printed files, opened by plain DuckDB, show every row once."""
    import duckdb

    files = [str(path) for path in two_versions.files()]
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT item_id, version, output, count(*), min(len(vector)) "
            f"FROM read_parquet({files}) GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    expected = [(f"i{n}", "faces/1", "embedding", 1, D) for n in range(5)]
    expected += [(f"i{n}", "faces/2", "embedding", 1, D) for n in range(2)]
    assert rows == sorted(expected)


def test_plain_pyarrow_reads_the_columns_and_types(two_versions):
    """A segment has the documented columns; vectors are a fixed-size list of float32."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in two_versions.files():
        table = pq.read_table(path)
        assert tuple(table.column_names) == COLUMNS
        assert table.schema.field("vector").type == pa.list_(pa.field("element", pa.float32()), D)
        assert table.schema.field("seq").type == pa.int64()
        assert len(set(table["version"].to_pylist())) == 1


def test_int8_takes_one_byte_for_each_dimension(world):
    """A gallery of int8 stores vectors as fixed-size binary of one byte per dimension."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    world.register("big/1", {"embedding": 128})
    gallery = world.create(serving="big/1", codec="int8")
    gallery.enroll_vectors(new_items(["a", "b"]), "big/1", {"embedding": unit(2, 128)})
    (path,) = gallery.files()
    assert pq.read_table(path).schema.field("vector").type == pa.binary(128)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 5), st.integers(1, 64)),
        elements=st.floats(-1, 1, width=32),
    )
)
def test_codecs_give_back_what_they_stored(raw):
    """float32 is exact; int8 is off by at most half a step of the largest component."""
    raw[np.linalg.norm(raw, axis=1) < 1e-3, 0] = 1
    vectors = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    assert (stored_vectors(vectors, "float32") == vectors).all()
    codes = encode(vectors, "int8")
    assert codes.shape == vectors.shape
    decoded = decode_vectors(codes, "int8")
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, atol=1e-6)
    step = np.abs(vectors).max(axis=1, keepdims=True) / 127
    bound = (np.sqrt(vectors.shape[1]) * step + 1e-6) * np.ones_like(vectors)
    assert (np.abs(decoded - vectors) <= bound).all()
    assert (encode(decoded, "int8") == codes).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=30), st.lists(st.integers(0, 8), max_size=5))
def test_key_files_find_what_plain_loops_find(tmp_path_factory, stored, wanted):
    """Every row of a hash is found, in a file of any size, with collisions."""
    path = tmp_path_factory.mktemp("keys") / "some.keys"
    names, asked = [f"n{x}" for x in stored], [f"n{x}" for x in wanted]
    seqs = np.arange(100, 100 + len(names))
    keys = open_keys(path, write_keys(path, names, seqs))
    expected = [int(seq) for seq, name in zip(seqs, names, strict=True) if name in asked]
    assert keys.find(hash_ids(asked)).tolist() == expected
    assert (np.sort(keys.seqs) == seqs).all()


def test_ids_of_any_text_have_a_hash():
    """Ids of any script, and lone surrogates of file names, hash to 64 bits."""
    hashes = hash_ids(["", "ä", "顔", "\udcff"])
    assert hashes.dtype == np.uint64
    assert len(set(hashes.tolist())) == 4


def _damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("suffix", [".parquet", ".keys"])
def test_a_damaged_file_is_found_and_refused(world, suffix):
    """One changed bit of a segment or key file is reported, and never answered from."""
    gallery = world.create()
    gallery.enroll_vectors(new_items(["a", "b"]), "faces/1", {"embedding": unit(2)}, fresh=False)
    (path,) = (world.root / "galleries/door/segments").glob(f"*{suffix}")
    _damage(path)
    opened = world.open()
    (problem,) = opened.check()
    assert path.name in problem
    assert "segue restore" in problem
    with pytest.raises(CorruptSegmentError):
        opened.export(world.root / "out.parquet") if suffix == ".parquet" else opened.count_items()


def test_a_missing_segment_is_damage_and_not_an_empty_gallery(world):
    """A listed file that is gone is reported as such by check and by a search."""
    gallery = world.create()
    gallery.enroll_vectors(new_items(["a", "b"]), "faces/1", {"embedding": unit(2)}, fresh=False)
    for path in (world.root / "galleries/door/segments").iterdir():
        path.unlink()
    opened = world.open()
    with pytest.raises(CorruptSegmentError, match="missing"):
        opened.count_items()
    assert len(opened.check()) == 1


def test_a_key_file_of_another_format_is_refused(tmp_path):
    """A newer key file is told as such, another file as damaged."""
    from segue.files import sha256_bytes

    path = tmp_path / "a.keys"
    write_keys(path, ["a"], np.array([0]))
    newer = bytearray(path.read_bytes())
    newer[8] = 9
    for content, error in ((bytes(newer), FormatError), (b"x" * 64, CorruptSegmentError)):
        path.write_bytes(content)
        with pytest.raises(error):
            open_keys(path, sha256_bytes(content))


def test_check_finds_rows_that_should_not_be_there(world):
    """Two rows of one item, a repeated id and an item without a live row are all reported."""
    from segue.index import catalog

    gallery = world.create()
    gallery.enroll_vectors(new_items(["a", "b"]), "faces/1", {"embedding": unit(2)}, fresh=False)
    rows = gallery._shelf.reader.rows(gallery._shelf.view().snapshot.segments[0], "float32")
    renamed = rows.take(np.array([1]))
    with world.database.write() as connection:
        catalog.insert_fresh(connection, "door", [rows.take(np.array([0]))])
        other = type(rows)(**{**vars(renamed), "seqs": np.array([5]), "version": "faces/3"})
        catalog.insert_fresh(connection, "door", [other])
        catalog.update_gallery(connection, "door", next_seq=6)
    problems = " ".join(world.open().check())
    assert "1 items have several rows" in problems
    assert "1 rows have an item_id that another item has" in problems
    assert "1 items are live in no version" in problems


def test_compacting_merges_segments_and_keeps_every_row(world, monkeypatch):
    """Many segments become few, none above the limit, with the same rows."""
    gallery, vectors = world.create(), unit(40)
    for start in range(0, 40, 5):
        items = new_items([str(n) for n in range(start, start + 5)])
        part = {"embedding": vectors[start : start + 5]}
        gallery.enroll_vectors(items, "faces/1", part, fresh=start == 35)
    before = gallery.sql("SELECT * FROM embeddings ORDER BY seq")
    monkeypatch.setattr("segue.index.compact.MERGED_ROWS", 15)
    gallery.compact()
    assert gallery.stats().segments == 3
    monkeypatch.undo()
    gallery.compact()
    assert gallery.stats().segments == 1
    assert gallery.sql("SELECT * FROM embeddings ORDER BY seq") == before
    assert gallery.check() == []
    assert len(world.files()) == 2


def test_one_item_is_read_from_any_row_group(world, monkeypatch):
    """An item's row is found in a segment of several row groups, after erasures too."""
    monkeypatch.setattr("segue.index.segments._ROW_GROUP", 4)
    for codec in ("float32", "int8"):
        gallery, vectors = world.create(codec, codec=codec), unit(11)
        items = new_items([f"i{n}" for n in range(11)])
        gallery.enroll_vectors(items, "faces/1", {"embedding": vectors}, fresh=False)
        gallery.erase(["i2", "i7"])
        for n in (0, 3, 4, 8, 10):
            (row,) = gallery.item(f"i{n}")
            assert row.item.item_id == f"i{n}"
            np.testing.assert_allclose(row.vector, vectors[n], atol=0.01)
