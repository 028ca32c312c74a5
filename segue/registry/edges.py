"""Measured edges: which stored version a probe version may be compared with, and how.

Reading needs a connection and the workspace's folder, no `Registry` and no MLflow, so that a search
stays light.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Required, TypedDict

import sqlalchemy as sa

from segue.database import bridges as bridges_table
from segue.database import edges as edges_table
from segue.errors import RegistryError, StaleEdgeError, UsageError
from segue.files import read_checked, sha256_bytes, sha256_file, write_durably
from segue.registry.ledger import record
from segue.registry.versions import Version, find_version
from segue.types import DEFAULT_OUTPUT, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from segue.harmonic.bridges import Bridge
    from segue.harmonic.calibration import Calibration

BRIDGES = "bridges"
"""The workspace's folder of bridge files."""

FIGURES = ("val", "rank1", "auc")
"""What an edge's `measured` tells of its vectors, on people that a report or a matrix is of."""


@dataclass(frozen=True)
class Edge:
    """An ordered pair (probe version -> stored version) whose comparability was measured.

    Attributes:
        probe, stored: version ids.
        probe_output, stored_output: the output that is compared on each side.
        calibration: from distance to false accept rate; None until measured.
        bridge: maps the probe's vector first; None where it is compared as it is.
        measured: what was measured, as JSON values: VAL by FAR, rank-1, data fingerprint.
        report: number of the compatibility report whose calibration it has.
        created_at: when it was saved; set by `save_edge`.
    """

    probe: str
    stored: str
    probe_output: str = DEFAULT_OUTPUT
    stored_output: str = DEFAULT_OUTPUT
    calibration: Calibration | None = None
    bridge: Bridge | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    report: int | None = None
    created_at: str = ""

    @property
    def label(self) -> str:
        """How the ledger names it: `faces/2 -> faces/1`."""
        return f"{self.probe} -> {self.stored}"


class EdgeFields(TypedDict, total=False):
    """The fields of an `Edge` that a caller gives."""

    probe: Required[str]
    stored: Required[str]
    probe_output: str
    stored_output: str
    calibration: Calibration | None
    bridge: Bridge | None
    measured: dict[str, Any]
    report: int | None


def calibrated(
    edge: Edge,
    calibration: Calibration,
    *,
    on: str,
    unseen: Mapping[str, Any] | None = None,
    figures: Mapping[str, Any] | None = None,
    report: int | None = None,
) -> Edge:
    """Return an edge with a calibration, and with `measured` telling of it and of no other.

    What is known of the edge's bridge stays. With another calibration it is no longer the edge that
    its report measured, and loses that number.

    Args:
        edge: the edge, as it is stored or new.
        calibration: measured on this edge.
        on: the people, such as `part calibration` or `gallery staff`.
        unseen: what is known of whether anybody learned from them, as JSON values; None where
            nobody asked.
        figures: `FIGURES`, where they were measured too; else those of the edge stay, which are of
            its vectors and not of its calibration.
        report: the compatibility report that measured all of this.
    """
    told = calibration_figures(calibration, on, unseen)
    if figures is None:
        figures = {name: edge.measured[name] for name in FIGURES if name in edge.measured}
    kept = {name: value for name, value in edge.measured.items() if name not in {*FIGURES, *told}}
    if report is None and calibration == edge.calibration:
        report = edge.report
    measured = {**kept, **figures, **told}
    return replace(edge, calibration=calibration, measured=measured, report=report)


def calibration_figures(
    calibration: Calibration, on: str, unseen: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what an edge's `measured` tells of its calibration, as JSON values."""
    return {
        "calibrated_on": on,
        "impostors": calibration.impostors,
        "people": calibration.people,
        "smallest_far": calibration.smallest_far,
        "unseen": None if unseen is None else dict(unseen),
    }


def check_unchanged(connection: sa.Connection, edges: Iterable[Edge]) -> None:
    """Tell early what `write_edge` with `since` would refuse after further work.

    Raises:
        StaleEdgeError: an edge was saved by somebody else since it was read.
    """
    table = edges_table.c
    for edge in edges:
        there = sa.and_(table.probe == edge.probe, table.stored == edge.stored)
        found = connection.scalar(sa.select(table.created_at).where(there))
        if (found or "") != edge.created_at:
            raise StaleEdgeError(edge.probe, edge.stored)


def read_edge(
    connection: sa.Connection, root: Path, probe: str, stored: str, *, lock: bool = False
) -> Edge | None:
    """Return the edge from `probe` to `stored`, or None where none was measured.

    Args:
        connection: an open read or write connection.
        root: the workspace's folder, for the bridge file.
        probe: version id of the probes.
        stored: version id of the stored vectors.
        lock: nobody else may replace the edge before the caller's transaction ends.

    Raises:
        TamperedError, MissingPathError: the bridge's file is not what was saved.
        FormatError: a newer Segue wrote the calibration or the bridge.
    """
    query = _joined().where(edges_table.c.probe == probe, edges_table.c.stored == stored)
    if lock:
        query = query.with_for_update(of=edges_table)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _to_edge(row, root)


def read_edges(connection: sa.Connection, root: Path) -> list[Edge]:
    """Return every measured edge, by probe and stored version.

    Raises:
        TamperedError, MissingPathError, FormatError: as `read_edge`.
    """
    query = _joined().order_by(edges_table.c.probe, edges_table.c.stored)
    return [_to_edge(row, root) for row in connection.execute(query).mappings()]


def write_edge(
    connection: sa.Connection,
    root: Path,
    edge: Edge,
    actor: str | None = None,
    *,
    since: str | None = None,
) -> None:
    """Save an edge inside the caller's transaction; one measured before is replaced.

    The last writer wins, and the ledger keeps what gave way. Who has read an edge, worked on it for
    minutes and writes it back gives `since`, so that what others saved meanwhile is not lost.

    Args:
        connection: an open write connection.
        root: the workspace's folder, for the bridge file.
        edge: what to save.
        actor: who, for the ledger; the login name by default.
        since: `created_at` of the edge that the caller has read, empty where there was none; None
            replaces whatever is there.

    Raises:
        StaleEdgeError: another edge is stored than the one of `since`; nothing was changed.
        UnknownVersionError: one of its versions is not registered.
        UsageError: an output that the version has not, other dimensions on both sides, or a bridge
            of other versions.
    """
    probe, stored = (find_version(connection, x) for x in (edge.probe, edge.stored))
    _check(edge, probe, stored)
    replaced = _take_out(connection, edge, since)
    bridge = write_bridge(connection, root, edge.bridge, actor) if edge.bridge else None
    connection.execute(
        edges_table.insert().values(
            probe=edge.probe,
            stored=edge.stored,
            probe_output=edge.probe_output,
            stored_output=edge.stored_output,
            bridge=bridge,
            calibration=edge.calibration.to_json() if edge.calibration else None,
            measured=edge.measured,
            report=edge.report,
            created_at=utc_now(),
        )
    )
    details = {
        "probe_output": edge.probe_output,
        "stored_output": edge.stored_output,
        "calibrated": edge.calibration is not None,
        "bridge": bridge,
        "report": edge.report,
        "replaced": replaced,
    }
    record(connection, "edge", edge.label, details=details, actor=actor)


def _take_out(connection: sa.Connection, edge: Edge, since: str | None) -> dict[str, Any] | None:
    """Remove the edge as it was stored; return what the ledger keeps of it, None if none was.

    Raises:
        StaleEdgeError: it is not the one of `since`.
    """
    table = edges_table.c
    there = sa.and_(table.probe == edge.probe, table.stored == edge.stored)
    query = sa.select(table.created_at, table.bridge, table.report, table.calibration)
    row = connection.execute(query.where(there).with_for_update()).one_or_none()
    if since is not None and since != ("" if row is None else row.created_at):
        raise StaleEdgeError(edge.probe, edge.stored)
    if row is None:
        return None
    connection.execute(edges_table.delete().where(there))
    return {
        "created_at": row.created_at,
        "bridge": row.bridge,
        "report": row.report,
        "calibrated": row.calibration is not None,
    }


def write_bridge(
    connection: sa.Connection, root: Path, bridge: Bridge, actor: str | None = None
) -> int:
    """Save a bridge inside the caller's transaction and return its number.

    The file is named by its content and durable before the transaction can commit; the same bridge
    saved again keeps its number, and its file is put back if it was damaged.

    Raises:
        UnknownVersionError: its source or target is not registered.
        UsageError: it was fitted on other models than the ones registered under these ids.
    """
    source, target = (
        find_version(connection, x) for x in (bridge.source_version, bridge.target_version)
    )
    for version, fitted in (
        (source, bridge.source_fingerprint),
        (target, bridge.target_fingerprint),
    ):
        if fitted and fitted != version.fingerprint:
            raise UsageError(
                f"the bridge was fitted on another {version.version} (fingerprint {fitted[:12]}…, "
                f"registered {version.fingerprint[:12]}…); fit it anew"
            )
    content = bridge.to_bytes()
    sha256 = sha256_bytes(content)
    same = sa.select(bridges_table.c.bridge, bridges_table.c.path).where(
        bridges_table.c.sha256 == sha256
    )
    known = connection.execute(same).first()
    if known is not None:
        put_back(root / known.path, content)
        return int(known.bridge)
    path = f"{BRIDGES}/{source.slug}--{target.slug}-{sha256[:12]}.safetensors"
    write_durably(root / path, content)
    number = connection.execute(
        bridges_table.insert()
        .values(
            kind=bridge.kind,
            source=source.version,
            target=target.version,
            path=path,
            sha256=sha256,
            created_at=utc_now(),
        )
        .returning(bridges_table.c.bridge)
    ).scalar_one()
    label = f"{source.version} -> {target.version}"
    record(
        connection, "bridge", label, details={"bridge": number, "kind": bridge.kind}, actor=actor
    )
    return int(number)


def put_back(path: Path, content: bytes) -> None:
    """Write a registered file again if it is missing or not what was registered."""
    if not path.is_file() or sha256_file(path) != sha256_bytes(content):
        write_durably(path, content)


def bridge_sha256(connection: sa.Connection, probe: str, stored: str) -> str | None:
    """Return the hash of the bridge's file of an edge, None where it has none."""
    query = sa.select(bridges_table.c.sha256).join(edges_table)
    found = query.where(edges_table.c.probe == probe, edges_table.c.stored == stored)
    return connection.scalar(found)


def read_bridge(connection: sa.Connection, root: Path, number: int) -> Bridge:
    """Return the bridge saved under `number`.

    Raises:
        RegistryError: there is none.
        TamperedError, MissingPathError, FormatError: its file is not what was saved.
    """
    row = connection.execute(
        sa.select(bridges_table.c.path, bridges_table.c.sha256).where(
            bridges_table.c.bridge == number
        )
    ).one_or_none()
    if row is None:
        raise RegistryError(f"no bridge {number}; fit one with `segue train bridge`")
    return _load_bridge(root / row.path, row.sha256)


def _joined() -> sa.Select[Any]:
    return sa.select(
        edges_table, bridges_table.c.path.label("path"), bridges_table.c.sha256.label("sha256")
    ).select_from(edges_table.outerjoin(bridges_table))


def _to_edge(row: sa.RowMapping, root: Path) -> Edge:
    from segue.harmonic.calibration import Calibration

    calibration = row["calibration"]
    return Edge(
        row["probe"],
        row["stored"],
        row["probe_output"],
        row["stored_output"],
        Calibration.from_json(calibration) if calibration is not None else None,
        _load_bridge(root / row["path"], row["sha256"]) if row["bridge"] is not None else None,
        row["measured"],
        row["report"],
        row["created_at"],
    )


def _load_bridge(path: Path, sha256: str) -> Bridge:
    from segue.harmonic.bridges import Bridge

    return Bridge.from_bytes(read_checked(path, sha256))


def _check(edge: Edge, probe: Version, stored: Version) -> None:
    dimensions = []
    for version, output in ((probe, edge.probe_output), (stored, edge.stored_output)):
        if output not in version.outputs:
            raise UsageError(
                f"{version.version} has no output {output!r}; it has {', '.join(version.outputs)}"
            )
        dimensions.append(version.outputs[output])
    bridge = edge.bridge
    if bridge is None and dimensions[0] != dimensions[1]:
        raise UsageError(
            f"edge {edge.label}: {edge.probe_output} has dimension {dimensions[0]}, "
            f"{edge.stored_output} {dimensions[1]}; name outputs of one dimension, or a bridge"
        )
    if bridge is not None and (bridge.source_version, bridge.target_version) != (
        probe.version,
        stored.version,
    ):
        raise UsageError(
            f"edge {edge.label} cannot use a bridge "
            f"{bridge.source_version} -> {bridge.target_version}; it maps other vectors"
        )
