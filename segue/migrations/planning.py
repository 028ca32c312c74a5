"""Making a plan: what is there now, read from the gallery and the registry. Nothing is changed."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import sqlalchemy as sa

from segue import database as tables
from segue.errors import UsageError
from segue.index.reembed import source_path
from segue.migrations.plan import BLUE_GREEN, MIXED, Plan, check_choices, edge_name
from segue.migrations.serving import VECTORS_ONLY
from segue.registry import read_edge
from segue.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.database import Database
    from segue.index import Gallery, StoredItem
    from segue.registry import Registry, Version
    from segue.types import Embedder

SAMPLE = 32
"""Items embedded to estimate a migration's time."""


def make_plan(
    database: Database,
    registry: Registry,
    gallery: Gallery,
    target: str,
    *,
    strategy: str | None = None,
    order: str = "oldest",
    batch: int = 256,
    embedder: Embedder | None = None,
    clock: Callable[[], float] = time.monotonic,
    look: bool = True,
) -> Plan:
    """Plan the migration of a gallery to `target`.

    With `strategy` None the gate decides: `mixed` where it says GO and the edge target -> source is
    measured, else `blue-green`. With an `embedder` of the target some items are embedded, and
    thrown away, to estimate the time. `look` False leaves out what takes long (missing sources).

    Raises:
        UnknownVersionError: no such version.
        UsageError: the gallery is served by the target already, or has nothing that it maps.
        UnknownNameError: an unknown strategy or order.
    """
    check_choices(strategy, order, batch)
    new, old = registry.resolve(target), registry.resolve(gallery.serving)
    if new.version == old.version:
        raise UsageError(f"gallery {gallery.name!r} is served by {new.version} already")
    with database.read() as connection:
        edges = measured_edges(connection, registry, (old.version, new.version))
        gate = registry.gate_of(old.version, new.version, connection=connection)
    wanted = {edge_name(new.version, stored) for stored in (old.version, new.version)}
    go = gate.go and wanted <= edges.keys()
    _check_mappable(registry, gallery, new)
    to_migrate = gallery.count_pending(new.version)
    waiting = gallery.pending(new.version, order="oldest", limit=to_migrate) if look else []
    width = sum(new.outputs[output] for output in gallery.outputs_needed(new.version))
    return Plan(
        gallery=gallery.name,
        source=old.version,
        target=new.version,
        strategy=strategy or (MIXED if go else BLUE_GREEN),
        strategy_given=strategy is not None,
        order=order,
        batch=batch,
        items=gallery.count_items(),
        to_migrate=to_migrate,
        missing_sources=_count_missing(registry, gallery, new, waiting),
        bridge=_fitted_bridge(database, old.version, new.version),
        bytes=to_migrate * width * (1 if gallery.codec == "int8" else 4),
        seconds=_estimate(gallery, waiting, embedder, clock),
        gate=gate.to_json(),
        report=None if gate.report is None else gate.report.report,
        fingerprints={version.version: version.fingerprint for version in (old, new)},
        edges=edges,
        serving=gallery.serving,
        created_at=utc_now(),
    )


def measured_edges(
    connection: sa.Connection, registry: Registry, versions: tuple[str, str], *, lock: bool = False
) -> dict[str, str]:
    """Return which edges among two versions were measured and calibrated, and when.

    With `lock` they stay as they are until the caller's transaction ends.
    """
    found = {}
    for probe, stored in product(versions, versions):
        edge = read_edge(connection, registry.root, probe, stored, lock=lock)
        if edge is not None and edge.calibration is not None:
            found[edge_name(probe, stored)] = edge.created_at
    return found


def as_it_is_now(plan: Plan, connection: sa.Connection, registry: Registry) -> Plan:
    """Return a plan with the edges and the gate of now; no edge changes in this transaction."""
    pair = plan.source, plan.target
    edges = measured_edges(connection, registry, pair, lock=True)
    gate = registry.gate_of(*pair, connection=connection)
    return replace(
        plan,
        edges=edges,
        gate=gate.to_json(),
        report=None if gate.report is None else gate.report.report,
    )


def _fitted_bridge(database: Database, source: str, target: str) -> int | None:
    bridges = tables.bridges
    with database.read() as connection:
        found = connection.scalar(
            sa.select(sa.func.max(bridges.c.bridge)).where(
                bridges.c.source == source, bridges.c.target == target
            )
        )
    return None if found is None else int(found)


def _check_mappable(registry: Registry, gallery: Gallery, new: Version) -> None:
    """Refuse a retuned version of which no item could get a vector.

    Raises:
        UsageError: nothing stored can be mapped, and there is no model for the images.
    """
    base = new.retuned_from
    if base is None or registry.resolve(base).kind != VECTORS_ONLY:
        return
    if gallery.count_items() and not gallery.stored_in(base).any():
        raise UsageError(
            f"gallery {gallery.name!r} holds no vectors of {base}, which {new.version} maps; "
            f"it is served by {gallery.serving}"
        )


def _count_missing(
    registry: Registry, gallery: Gallery, new: Version, waiting: list[StoredItem]
) -> int:
    """Return how many items have neither an image to embed nor a stored vector that `new` maps."""
    base = new.retuned_from
    if base is None:
        return sum(not _is_there(item) for item in waiting)
    mapped = gallery.stored_in(base)
    without = [item for item in waiting if not mapped[item.seq]]
    has_model = registry.resolve(base).kind != VECTORS_ONLY
    return sum(not (has_model and _is_there(item)) for item in without)


def _is_there(item: StoredItem) -> bool:
    """Whether the item's image is a file that is there."""
    path = None if item.source is None else source_path(item.source)
    return path is not None and path.is_file()


def _estimate(
    gallery: Gallery,
    waiting: list[StoredItem],
    embedder: Embedder | None,
    clock: Callable[[], float],
) -> float | None:
    """Return the embedding time of all waiting items in seconds, from a sample of them."""
    sample = [item for item in waiting if _is_there(item)][:SAMPLE]
    if embedder is None or not sample:
        return None
    gallery.reembed(sample[:1], embedder)  # the first call warms caches up
    started = clock()
    gallery.reembed(sample, embedder)
    return (clock() - started) / len(sample) * len(waiting)
