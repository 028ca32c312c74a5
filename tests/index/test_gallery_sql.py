from __future__ import annotations

import pytest
from gallery_world import new_items, unit

from segue.errors import UsageError


@pytest.fixture
def half(world):
    gallery = world.create()
    items = new_items([f"i{n}" for n in range(6)], ["p", "p", "q", "q", None, "r"])
    gallery.enroll_vectors(items[:4], "faces/1", {"embedding": unit(4)}, fresh=False)
    gallery.enroll_vectors(items[4:], "faces/1", {"embedding": unit(2)}, fresh=True)
    world.serve(gallery, "faces/2", "faces/1")
    world.write(gallery, "faces/2", gallery.pending("faces/2", limit=3), unit(3, seed=1))
    return gallery


def test_the_views_show_every_row_and_each_items_live_one(half):
    """`embeddings` has all rows, `live` one for each item, of its most preferred version."""
    columns, rows = half.sql(
        "SELECT version, count(*) AS n FROM embeddings GROUP BY version ORDER BY version"
    )
    assert (columns, rows) == (["version", "n"], [("faces/1", 6), ("faces/2", 3)])
    _, live = half.sql("SELECT item_id, version FROM live ORDER BY item_id")
    assert live == [(f"i{n}", "faces/2" if n < 3 else "faces/1") for n in range(6)]
    _, left = half.sql(
        "SELECT item_id FROM live ANTI JOIN (FROM embeddings WHERE version = 'faces/2') "
        "USING (seq) ORDER BY item_id"
    )
    assert left == [("i3",), ("i4",), ("i5",)]
    assert half.sql("SELECT len(vector) FROM embeddings LIMIT 1")[1] == [(8,)]


def test_an_empty_gallery_has_the_views_too(world):
    """The views of an empty gallery have the columns of a segment and no rows."""
    columns, rows = world.create().sql("SELECT * FROM live")
    assert columns[:3] == ["seq", "item_id", "identity"]
    assert rows == []


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_parquet('{segment}')",
        "SELECT * FROM '{segment}'",
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM read_blob('{secret}')",
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM sniff_csv('{secret}')",
        "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
        "COPY embeddings TO '{folder}/out.csv'",
        "COPY (SELECT 1) TO '{segment}'",
        "EXPORT DATABASE '{folder}/out'",
        "IMPORT DATABASE '{folder}'",
        "ATTACH '{folder}/other.db'",
        "ATTACH '{folder}/segue.db' (TYPE sqlite)",
        "INSTALL httpfs",
        "LOAD httpfs",
        "LOAD '{folder}/x.duckdb_extension'",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "SET temp_directory = '{folder}'",
        "PRAGMA temp_directory = '{folder}'",
        "RESET lock_configuration",
        "SET lock_configuration = false; SET enable_external_access = true",
        "SELECT getenv('HOME')",
        "SELECT * FROM view",
        "CREATE PERSISTENT SECRET s (TYPE s3)",
        "DELETE FROM embeddings",
        "nonsense",
    ],
)
def test_a_query_reaches_no_file_no_network_and_no_extension(half, world, tmp_path, query):
    """Whatever a query tries outside the gallery's rows is refused, and writes nothing."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    segment = next((world.root / "galleries/door/segments").glob("*.parquet"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    names = {path for path in tmp_path.rglob("*") if "segue.db" not in path.name}
    text = query.format(segment=segment, secret=secret, folder=world.root)
    with pytest.raises(UsageError, match="the query failed"):
        half.sql(text)
    assert {path for path in tmp_path.rglob("*") if "segue.db" not in path.name} == names
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before


def test_a_query_sees_one_snapshot_of_its_own(half):
    """Tables made by a query are gone with it: nothing of a query outlives it."""
    half.sql("CREATE TABLE mine AS SELECT * FROM embeddings")
    with pytest.raises(UsageError):
        half.sql("SELECT * FROM mine")


def test_a_query_is_run_again_when_its_files_are_swept_away(half, world, monkeypatch):
    """A query whose segments were rewritten under it answers from the new ones."""
    view = half._shelf.view()
    world.open().compact()
    shown, real = [], half._shelf.view

    def old_once():
        shown.append(1)
        return view if len(shown) == 1 else real()

    monkeypatch.setattr(half._shelf, "view", old_once)
    assert half.sql("SELECT count(*) FROM embeddings")[1] == [(9,)]
    assert len(shown) > 1
