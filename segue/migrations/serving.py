"""Which version serves a gallery, and what keeps new items findable whichever way it goes."""

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


def companions_of(registry: Registry, source: str, target: str) -> list[str]:
    """Return which versions a new item needs beside `target`, so that a revert still finds it.

    None where probes of the old version are measured against the new one, else the old version;
    where that has no model, nothing can be done, and `can_revert` says so.
    """
    if has_edge(registry, source, target) or registry.resolve(source).kind == VECTORS_ONLY:
        return []
    return [source]


def can_revert(registry: Registry, source: str, target: str) -> bool:
    """Whether items enrolled while `target` serves stay findable when `source` serves again."""
    return has_edge(registry, source, target) or registry.resolve(source).kind != VECTORS_ONLY


def comparable(registry: Registry, probe: str, versions: Iterable[str]) -> list[str]:
    """Return those of `versions` that probes of `probe` are measured against, in their order."""
    return [
        version for version in versions if version != probe and has_edge(registry, probe, version)
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
