"""The gallery's rows in the workspace database: every SQL statement of this room's tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from segue import database as tables
from segue.errors import LockedError, UnknownGalleryError, UnknownVersionError
from segue.index.rows import Rows
from segue.index.segments import Segment
from segue.registry.ledger import first_entry, record
from segue.types import DEFAULT_OUTPUT, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from segue.types import Ints

_SERVING = "serving"  # the ledger's word for a gallery's change of its serving version
_CHUNK = 500  # values in one IN (…): below every backend's limit of parameters


@dataclass(frozen=True)
class GalleryRow:
    """A gallery's row in the catalog."""

    gallery: str
    serving: str
    preference: tuple[str, ...]
    companions: tuple[str, ...]
    codec: str
    next_seq: int
    generation: int
    erased_generation: int


def read_gallery(connection: sa.Connection, name: str, *, lock: bool = False) -> GalleryRow:
    """Read a gallery's row; with `lock`, hold it until the transaction ends (PostgreSQL).

    Raises:
        UnknownGalleryError: there is none of that name.
    """
    query = sa.select(tables.galleries).where(tables.galleries.c.gallery == name)
    row = connection.execute(query.with_for_update() if lock else query).mappings().first()
    if row is None:
        raise UnknownGalleryError(name, list_names(connection))
    return GalleryRow(
        row["gallery"],
        row["serving"],
        tuple(row["preference"]),
        tuple(row["companions"]),
        row["codec"],
        row["next_seq"],
        row["generation"],
        row["erased_generation"],
    )


def list_names(connection: sa.Connection) -> list[str]:
    """Return the names of all galleries, sorted."""
    query = sa.select(tables.galleries.c.gallery).order_by(tables.galleries.c.gallery)
    return list(connection.scalars(query))


def insert_gallery(connection: sa.Connection, name: str, serving: str, codec: str) -> None:
    """Add a gallery's row."""
    connection.execute(
        tables.galleries.insert().values(
            gallery=name,
            serving=serving,
            preference=[serving],
            companions=[],
            codec=codec,
            next_seq=0,
            generation=0,
            erased_generation=0,
            created_at=utc_now(),
        )
    )


def update_gallery(connection: sa.Connection, name: str, **values: Any) -> None:
    """Change columns of a gallery's row."""
    query = tables.galleries.update().where(tables.galleries.c.gallery == name)
    connection.execute(query.values(**values))


def bump(connection: sa.Connection, row: GalleryRow, *, erased: bool = False) -> None:
    """Count a commit, so that readers see that their snapshot is old."""
    values = {"generation": row.generation + 1}
    if erased:
        values["erased_generation"] = row.generation + 1
    update_gallery(connection, row.gallery, **values)


def version_outputs(connection: sa.Connection, version: str) -> dict[str, int]:
    """Return a registered version's outputs and their dimensions.

    Raises:
        UnknownVersionError: it is not registered.
    """
    query = sa.select(tables.versions.c.outputs).where(tables.versions.c.version == version)
    outputs = connection.scalar(query)
    if outputs is None:
        raise UnknownVersionError(version, connection.scalars(sa.select(tables.versions.c.version)))
    return {str(output): int(dimension) for output, dimension in outputs.items()}


def record_serving(
    connection: sa.Connection, row: GalleryRow, serving: str, reason: str | None, **details: Any
) -> None:
    """Tell the ledger which version serves a gallery from now on, and which did before."""
    found = {"from": row.serving, "to": serving, **details}
    record(connection, _SERVING, row.gallery, reason, found)


def first_served(connection: sa.Connection, row: GalleryRow) -> str:
    """Return the version that a gallery was served by first, whether it has vectors left or not."""
    entry = first_entry(connection, _SERVING, row.gallery)
    return row.serving if entry is None else str(entry.details["from"])


def outputs_needed(connection: sa.Connection, row: GalleryRow, version: str) -> tuple[str, ...]:
    """Return `embedding` and those outputs that edges from the gallery's other versions name."""
    edges = tables.edges
    probes = {row.serving, *row.preference, *row.companions} - {version}
    query = sa.select(edges.c.stored_output).where(
        edges.c.stored == version, edges.c.probe.in_(sorted(probes))
    )
    named = set(connection.scalars(query)) - {DEFAULT_OUTPUT}
    return (DEFAULT_OUTPUT, *sorted(named))


# --- segments -------------------------------------------------------------------------------


def read_segments(connection: sa.Connection, name: str) -> tuple[Segment, ...]:
    """Return a gallery's live segments, oldest first."""
    table = tables.segments
    query = sa.select(table).where(table.c.gallery == name).order_by(table.c.segment)
    fields = Segment.__dataclass_fields__
    return tuple(
        Segment(**{field: row[field] for field in fields})
        for row in connection.execute(query).mappings()
    )


def insert_segments(connection: sa.Connection, name: str, segments: Iterable[Segment]) -> None:
    """List segments whose files are durable."""
    now = utc_now()
    for segment in segments:
        values = {field: getattr(segment, field) for field in Segment.__dataclass_fields__}
        del values["segment"]
        connection.execute(tables.segments.insert().values(gallery=name, created_at=now, **values))


def delete_segments(connection: sa.Connection, name: str, segments: Iterable[Segment]) -> None:
    """Take segments off the list.

    Raises:
        LockedError: one of them is gone already: somebody else rewrote it meanwhile.
    """
    table = tables.segments
    for segment in segments:
        done = connection.execute(table.delete().where(table.c.segment == segment.segment))
        if done.rowcount != 1:
            raise LockedError(f"a segment of gallery {name!r}")


# --- fresh rows -----------------------------------------------------------------------------


def insert_fresh(connection: sa.Connection, name: str, parts: Iterable[Rows]) -> None:
    """Add rows to the catalog itself."""
    values = [
        {
            "gallery": name,
            "seq": int(rows.seqs[i]),
            "version": rows.version,
            "output": rows.output,
            "item_id": rows.item_ids[i],
            "identity": rows.identities[i],
            "source": rows.sources[i],
            "source_sha256": rows.source_sha256s[i],
            "vector": rows.codes[i].tobytes(),
            "embedded_at": rows.embedded_at[i],
        }
        for rows in parts
        for i in range(len(rows))
    ]
    if values:
        connection.execute(tables.fresh_rows.insert(), values)


def read_fresh(connection: sa.Connection, name: str) -> dict[tuple[str, str], Rows]:
    """Return the fresh rows by version and output, each sorted by `seq`."""
    table = tables.fresh_rows
    query = (
        sa.select(
            table.c.version,
            table.c.output,
            table.c.seq,
            table.c.item_id,
            table.c.identity,
            table.c.source,
            table.c.source_sha256,
            table.c.embedded_at,
            table.c.vector,
        )
        .where(table.c.gallery == name)
        .order_by(table.c.version, table.c.output, table.c.seq)
    )
    grouped: dict[tuple[str, str], list[Any]] = {}
    for row in connection.execute(query):
        grouped.setdefault((row[0], row[1]), []).append(row)
    return {key: _rows(key, listed) for key, listed in grouped.items()}


def _rows(key: tuple[str, str], listed: Sequence[Any]) -> Rows:
    _, _, seqs, item_ids, identities, sources, sha256s, times, vectors = zip(*listed, strict=True)
    codes = np.frombuffer(b"".join(vectors), dtype=np.uint8).reshape(len(listed), -1)
    numbers = np.array(seqs, dtype=np.int64)
    return Rows(*key, numbers, item_ids, identities, sources, sha256s, times, codes)


def count_fresh(connection: sa.Connection, name: str) -> int:
    """Return the number of fresh rows."""
    table = tables.fresh_rows
    query = sa.select(sa.func.count()).select_from(table).where(table.c.gallery == name)
    return int(connection.scalar(query) or 0)


def fresh_seqs_of(connection: sa.Connection, name: str, item_ids: Sequence[str]) -> dict[str, int]:
    """Return the `seq` of those of `item_ids` that have a fresh row."""
    table = tables.fresh_rows
    found: dict[str, int] = {}
    for chunk in chunks(item_ids):
        query = sa.select(table.c.item_id, table.c.seq).where(
            table.c.gallery == name, table.c.item_id.in_(chunk)
        )
        found.update((str(item_id), int(seq)) for item_id, seq in connection.execute(query))
    return found


def fresh_keys(connection: sa.Connection, name: str) -> dict[tuple[str, str], Ints]:
    """Return the `seq` of every fresh row by version and output, without its vector."""
    table = tables.fresh_rows
    query = sa.select(table.c.version, table.c.output, table.c.seq).where(table.c.gallery == name)
    grouped: dict[tuple[str, str], list[int]] = {}
    for version, output, seq in connection.execute(query):
        grouped.setdefault((version, output), []).append(seq)
    return {key: np.array(sorted(seqs), dtype=np.int64) for key, seqs in grouped.items()}


def delete_fresh(
    connection: sa.Connection,
    name: str,
    seqs: Ints,
    key: tuple[str, str] | None = None,
) -> int:
    """Remove the fresh rows of some items, of one version and output or of all; return how many."""
    table = tables.fresh_rows
    removed = 0
    for chunk in chunks([int(seq) for seq in seqs]):
        query = table.delete().where(table.c.gallery == name, table.c.seq.in_(chunk))
        if key is not None:
            query = query.where(table.c.version == key[0], table.c.output == key[1])
        removed += connection.execute(query).rowcount
    return removed


# --- tombstones -----------------------------------------------------------------------------

ERASE, REPLACE = "erase", "replace"
"""Why an item has a tombstone."""


def insert_tombstones(
    connection: sa.Connection, name: str, seqs: Iterable[int], replaced_by: Mapping[int, int]
) -> None:
    """Write tombstones: from this commit on, never served and never written again.

    Those in `replaced_by` (old `seq` -> new) are of replaced items, the others of erased ones.
    """
    now = utc_now()
    values = [
        {
            "gallery": name,
            "seq": seq,
            "why": REPLACE if seq in replaced_by else ERASE,
            "replaced_by": replaced_by.get(seq),
            "swept": False,
            "at": now,
        }
        for seq in seqs
    ]
    if values:
        connection.execute(tables.tombstones.insert(), values)


def condemn_replaced(connection: sa.Connection, name: str, seqs: Iterable[int]) -> None:
    """Call erased what erased items had replaced, and what that had replaced before."""
    table = tables.tombstones
    successors = list(seqs)
    while successors:
        before: list[int] = []
        for chunk in chunks(successors):
            mine = (table.c.gallery == name) & table.c.replaced_by.in_(chunk)
            before.extend(connection.scalars(sa.select(table.c.seq).where(mine)))
            connection.execute(table.update().where(mine).values(why=ERASE))
        successors = before


def unswept(connection: sa.Connection, name: str) -> Ints:
    """Return the tombstoned `seq` that some file may still hold: sorted int64."""
    table = tables.tombstones
    query = (
        sa.select(table.c.seq)
        .where(table.c.gallery == name, table.c.swept.is_(False))
        .order_by(table.c.seq)
    )
    return np.array(list(connection.scalars(query)), dtype=np.int64)


def tombstoned(connection: sa.Connection, name: str, seqs: Iterable[int]) -> Ints:
    """Return those of `seqs` that have a tombstone, swept or not: sorted int64."""
    table = tables.tombstones
    found: list[int] = []
    for chunk in chunks(list(seqs)):
        query = sa.select(table.c.seq).where(table.c.gallery == name, table.c.seq.in_(chunk))
        found.extend(connection.scalars(query))
    return np.array(sorted(found), dtype=np.int64)


def mark_erasing(connection: sa.Connection, name: str, marks: Mapping[int, str]) -> None:
    """Note beside tombstones by `seq` what an erasure was asked for, until they are swept."""
    table = tables.tombstones
    query = table.update().where(table.c.gallery == name, table.c.seq == sa.bindparam("one"))
    values = [{"one": seq, "mark": f"{ERASE} {mark}"} for seq, mark in marks.items()]
    if values:
        connection.execute(query.values(why=sa.bindparam("mark")), values)


def read_erasing(connection: sa.Connection, name: str) -> list[str]:
    """Return what `mark_erasing` noted of tombstones that are not swept yet."""
    table = tables.tombstones
    query = sa.select(table.c.why).where(
        table.c.gallery == name, table.c.swept.is_(False), table.c.why.startswith(f"{ERASE} ")
    )
    return [why.removeprefix(f"{ERASE} ") for why in connection.scalars(query)]


def mark_swept(connection: sa.Connection, name: str, seqs: Iterable[int]) -> None:
    """Note that no file or row holds these any more."""
    table = tables.tombstones
    why = sa.case((table.c.why.startswith(f"{ERASE} "), ERASE), else_=table.c.why)
    for chunk in chunks(list(seqs)):
        query = table.update().where(table.c.gallery == name, table.c.seq.in_(chunk))
        connection.execute(query.values(swept=True, why=why))


# --- touched --------------------------------------------------------------------------------


def insert_touched(connection: sa.Connection, name: str, seqs: Iterable[int]) -> None:
    """Note items that a search returned with an old version's vector."""
    table = tables.touched
    wanted = sorted(set(seqs))
    known: set[int] = set()
    for chunk in chunks(wanted):
        query = sa.select(table.c.seq).where(table.c.gallery == name, table.c.seq.in_(chunk))
        known.update(connection.scalars(query))
    now = utc_now()
    values = [{"gallery": name, "seq": seq, "at": now} for seq in wanted if seq not in known]
    if values:
        connection.execute(table.insert(), values)


def read_touched(connection: sa.Connection, name: str) -> Ints:
    """Return the touched items, longest waiting first: int64."""
    table = tables.touched
    query = sa.select(table.c.seq).where(table.c.gallery == name).order_by(table.c.at, table.c.seq)
    return np.array(list(connection.scalars(query)), dtype=np.int64)


def delete_touched(connection: sa.Connection, name: str, seqs: Iterable[int]) -> None:
    """Forget touched items."""
    table = tables.touched
    for chunk in chunks([int(seq) for seq in seqs]):
        connection.execute(table.delete().where(table.c.gallery == name, table.c.seq.in_(chunk)))


def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield `values` in parts that fit into one statement."""
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]
