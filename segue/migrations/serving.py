"""Which version serves a gallery, and what keeps new items findable whichever way it goes.

An edge that is calibrated makes a search possible. That faces are found by it is said only by a
gate's GO (`found_by_edge`): a NO-GO pair is treated as one without an edge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.errors import UnmeasuredEdgeError
from segue.migrations.plan import edge_name
from segue.registry import GALLERY_ALIAS
from segue.types import VersionId

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import sqlalchemy as sa

    from segue.index import Gallery
    from segue.registry import Registry

VECTORS_ONLY = "vectors"
"""The kind of a version that has no model: nothing can be embedded with it."""


def missing_edge(registry: Registry, probe: str, stored: str) -> str | None:
    """Return the edge that probes of `probe` lack to be answered from a gallery that mixes both.

    Lists of two versions merge by false accept rate, so that both edges must be calibrated: the
    one to `stored`, and the one from `probe` to itself. None if both are.
    """
    for other in (stored, probe):
        try:
            if registry.edge(probe, other).calibration is None:
                return edge_name(probe, other)
        except UnmeasuredEdgeError:
            return edge_name(probe, other)
    return None


def has_edge(registry: Registry, probe: str, stored: str) -> bool:
    """Whether probes of `probe` can be answered from vectors of both versions together."""
    return missing_edge(registry, probe, stored) is None


def found_by_edge(registry: Registry, old: str, new: str, *, probe: str, stored: str) -> bool:
    """Whether probes of one of two versions find the other's items, and the gate vouches for it.

    The upgrade from `old` to `new` must be GO, by a report that measured this edge. A version and
    its retuned one are a single model, which no gate is asked about.
    """
    if not has_edge(registry, probe, stored):
        return False
    ends = registry.resolve(old), registry.resolve(new)
    if ends[0].retuned_from == new or ends[1].retuned_from == old:
        return True
    return (probe, stored) in registry.gate_of(old, new).edges


def companions_of(registry: Registry, source: str, target: str) -> list[str]:
    """Return which versions a new item needs beside `target`, so that a revert still finds it.

    None where probes of the old version find items of the new one, else the old version; where that
    has no model, nothing can be done, and `can_revert` says so.
    """
    if registry.resolve(source).kind == VECTORS_ONLY or found_after_revert(
        registry, source, target
    ):
        return []
    return [source]


def found_after_revert(registry: Registry, source: str, target: str) -> bool:
    """Whether probes of the old version find items that have a vector of the new one only."""
    return found_by_edge(registry, source, target, probe=source, stored=target)


def can_revert(registry: Registry, source: str, target: str) -> bool:
    """Whether items enrolled while `target` serves stay findable when `source` serves again."""
    has_model = registry.resolve(source).kind != VECTORS_ONLY
    return has_model or found_after_revert(registry, source, target)


def comparable(
    registry: Registry, migration: tuple[str, str], probe: str, versions: Iterable[str]
) -> list[str]:
    """Return those of `versions` that `probe`, which is to serve, finds items of; in their order.

    Of the two versions of the `migration` (old, new) the gate decides; the others were served
    together before, and a calibrated edge is enough.
    """
    old, new = migration
    return [
        stored
        for stored in versions
        if stored != probe
        and (
            found_by_edge(registry, old, new, probe=probe, stored=stored)
            if stored in migration
            else has_edge(registry, probe, stored)
        )
    ]


def serve(
    connection: sa.Connection,
    registry: Registry,
    gallery: Gallery,
    version: str,
    *,
    preference: Sequence[str],
    companions: Sequence[str],
    reason: str,
) -> None:
    """Let `version` serve the gallery: catalog, ledger and alias `serving-GALLERY` together."""
    gallery.set_serving(
        connection,
        serving=version,
        preference=list(preference),
        companions=list(companions),
        reason=reason,
    )
    registry.set_alias(
        connection,
        VersionId.parse(version).name,
        f"{GALLERY_ALIAS}{gallery.name}",
        version,
        reason=reason,
    )
