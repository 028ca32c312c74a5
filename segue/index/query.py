"""SQL over a gallery: DuckDB in memory, with the views `embeddings` and `live` and nothing else.

The segments are handed to DuckDB as Arrow data before its access to files, network and extensions
is switched off for good, so that a query can read what is in the gallery and nothing around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.errors import UsageError
from segue.index.segments import arrow_table
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    import duckdb

    from segue.index.shelf import Shelf
    from segue.index.snapshot import View

_EMPTY = """SELECT NULL::BIGINT AS seq, NULL::VARCHAR AS item_id, NULL::VARCHAR AS identity,
    NULL::VARCHAR AS source, NULL::VARCHAR AS source_sha256, NULL::VARCHAR AS version,
    NULL::VARCHAR AS output, NULL::{vector} AS vector, NULL::VARCHAR AS embedded_at WHERE false"""

_LOCKED = (
    "SET temp_directory = ''",  # what does not fit into memory is not spilled beside the user
    "SET python_enable_replacements = false",  # Python's variables are no tables
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)

_ATTEMPTS = 8  # snapshots that may be swept away under one query


def run_query(shelf: Shelf, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run a query over the newest snapshot; return its columns and rows.

    Raises:
        UsageError: DuckDB refuses it, for what it says.
    """
    import duckdb

    for attempt in range(_ATTEMPTS):
        view = shelf.view()
        try:
            with duckdb.connect(":memory:") as connection:
                _prepare(connection, view)
                done = connection.execute(query)
                columns = [str(column[0]) for column in done.description or ()]
                return columns, done.fetchall() if columns else []
        except (duckdb.Error, FileNotFoundError) as error:
            swept = shelf.view() is not view and not _all_there(view)
            if not swept or attempt + 1 == _ATTEMPTS:
                raise UsageError(f"the query failed: {error}") from error
    raise UsageError("the gallery changes too fast for this query; try again")


def _all_there(view: View) -> bool:
    return all((view.reader.root / segment.path).exists() for segment in view.snapshot.segments)


def _prepare(connection: duckdb.DuckDBPyConnection, view: View) -> None:
    """Register a view's rows, create the two SQL views, and lock everything else."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    vector = "BLOB" if view.row.codec == "int8" else "FLOAT[]"
    erased = pc.field("seq").isin(pa.array(view.snapshot.dead, pa.int64()))
    columns = f"* REPLACE (vector::{vector} AS vector)"
    parts = [_EMPTY.format(vector=vector)]
    for number, key in enumerate(view.keys):
        paths = [str(view.reader.root / segment.path) for segment in view.segments(key)]
        if paths:
            stored = ds.dataset(paths, format="parquet").filter(~erased)
            connection.register(f"stored_{number}", stored)
            parts.append(f"SELECT {columns} FROM stored_{number}")  # noqa: S608 - our own names
        if key in view.snapshot.fresh:
            table = arrow_table(view.snapshot.fresh[key], view.row.codec)
            connection.register(f"fresh_{number}", table)
            parts.append(f"SELECT {columns} FROM fresh_{number}")  # noqa: S608 - as above
    connection.execute(f"CREATE VIEW embeddings AS {' UNION ALL '.join(parts)}")
    ranks = pa.table(
        {
            "version": pa.array(view.row.preference, pa.string()),
            "place": pa.array(np.arange(len(view.row.preference)), pa.int64()),
        }
    )
    connection.register("preferred", ranks)
    connection.execute(
        f"""CREATE VIEW live AS
        SELECT embeddings.* FROM embeddings JOIN preferred USING (version)
        WHERE output = '{DEFAULT_OUTPUT}'
        QUALIFY row_number() OVER (PARTITION BY seq ORDER BY place) = 1"""  # noqa: S608 - as above
    )
    for statement in _LOCKED:
        connection.execute(statement)
