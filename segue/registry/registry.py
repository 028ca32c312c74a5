"""The registry: one object for everything that a workspace knows about embedding versions."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import event

from segue.errors import (
    MissingPathError,
    NoModelError,
    RegistryError,
    UnmeasuredEdgeError,
    UsageError,
)
from segue.files import read_checked
from segue.registry import aliases, edges, gates, registering, reports
from segue.registry.check import check_records
from segue.registry.edge_rows import EdgeRow, read_edge_rows
from segue.registry.edges import Edge
from segue.registry.embedder import open_model, open_network
from segue.registry.ledger import LedgerEntry, read_ledger, record
from segue.registry.manifest import MODEL_FILES, PEOPLE
from segue.registry.moved_store import ARTIFACTS
from segue.registry.retuned import RetunedEmbedder, write_retuned
from segue.registry.tracking import Tracking, default_uri
from segue.registry.versions import Version, find_version, list_versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from sqlalchemy import Connection

    from segue.database import Database
    from segue.evaluation.gate import GateResult
    from segue.harmonic.bridges import Bridge
    from segue.networks import EmbeddingNetwork
    from segue.registry.edges import EdgeFields
    from segue.registry.embedder import RegistryEmbedder
    from segue.registry.gates import Gate
    from segue.registry.reports import StoredReport
    from segue.types import Preprocessing

    Versions: TypeAlias = list[Version]
    Edges: TypeAlias = list[Edge]
    EdgeRows: TypeAlias = list[EdgeRow]
    Sentences: TypeAlias = list[str]
    Entries: TypeAlias = list[LedgerEntry]
    Reports: TypeAlias = list[StoredReport]

_log = logging.getLogger(__name__)


class Registry:
    """The embedding versions of one workspace, their edges and reports, and the ledger.

    Reading and loading need the database and the workspace's folder only. Registering and promoting
    also tell MLflow, which is imported and created then.

    Args:
        database: the workspace's database.
        root: the workspace's folder.
        tracking_uri: MLflow's store; by default `MLFLOW_TRACKING_URI`, or SQLite in `root`.
    """

    def __init__(self, database: Database, root: Path, tracking_uri: str | None = None) -> None:
        self.database = database
        self.root = root
        self._tracking_uri = tracking_uri

    @cached_property
    def tracking(self) -> Tracking:
        """MLflow beside the workspace; it is reached at its first use."""
        uri = self._tracking_uri or default_uri(self.root)
        return Tracking(uri, self.root / ARTIFACTS)

    # --- registering ------------------------------------------------------------------------

    def register_network(
        self,
        name: str,
        *,
        architecture: str,
        settings: Mapping[str, Any],
        weights: bytes,
        preprocessing: Preprocessing,
        details: Mapping[str, Any] | None = None,
        people: bytes | None = None,
        actor: str | None = None,
    ) -> Version:
        """Register a network of a registered architecture as the next version of `name`.

        Args:
            name: the model's name, such as `faces`.
            architecture: its registered name.
            settings: what `build_network` takes, as JSON values.
            weights: safetensors of exactly the network's names and shapes.
            preprocessing: how images become its input.
            details: further JSON values to keep; `run_id` links MLflow's training run.
            people: the content of `people.json`, kept beside the weights and not in MLflow.
            actor: who registers it; the login name by default.

        Raises:
            UnsafeModelError: the weights are no safetensors of this network.
            UnknownNameError: an unknown architecture or setting.
            RegistryError: MLflow cannot be reached. Nothing is left behind in any case.
        """
        candidate = registering.prepare_model(
            "network",
            name,
            weights,
            architecture=architecture,
            settings=settings,
            preprocessing=preprocessing,
            details=details,
            source="the weights",
            people=people,
        )
        return self._commit(candidate, actor)

    def register_onnx(
        self,
        name: str,
        path: Path,
        *,
        preprocessing: Preprocessing,
        details: Mapping[str, Any] | None = None,
        graph_output: str | None = None,
        actor: str | None = None,
    ) -> Version:
        """Register a foreign model from an ONNX file as the next version of `name`.

        `graph_output` names the model's own output that holds the vectors, where it has several.

        Raises:
            MissingPathError: no such file.
            UnsafeModelError: it is no ONNX file that Segue runs.
            VectorError: its input has another size than the preprocessing gives.
            RegistryError: MLflow cannot be reached. Nothing is left behind in any case.
        """
        try:
            content = Path(path).read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise MissingPathError(path, "ONNX file") from error
        candidate = registering.prepare_model(
            "onnx",
            name,
            content,
            architecture="onnx",
            settings={} if graph_output is None else {"graph_output": graph_output},
            preprocessing=preprocessing,
            details=details,
            source=path,
        )
        return self._commit(candidate, actor)

    def register_vectors(
        self,
        name: str,
        *,
        dimension: int,
        details: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> Version:
        """Register a version that has no model, only vectors of `dimension`.

        Raises:
            UsageError: the dimension or details cannot be used.
            RegistryError: MLflow cannot be reached.
        """
        return self._commit(registering.prepare_vectors(name, dimension, details), actor)

    def register_mapped(self, source: str, bridge: int, *, actor: str | None = None) -> Version:
        """Register `faces/1~b3`: vectors of `source` that were taken through a saved bridge.

        It lives in the space of the bridge's target, has edges of its own and no model, and MLflow
        has no copy of it. Registering it again changes nothing.

        Raises:
            UnknownVersionError, RegistryError: no such version or bridge.
            UsageError: the bridge starts at another version.
        """
        with self.database.write() as connection:
            version = registering.write_mapped(connection, self.root, source, bridge, actor)
        return self.resolve(version)

    def register_retuned(
        self,
        bridge: Bridge,
        *,
        details: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> Version:
        """Register the version that a retuning makes (`fit_retuning`), with its bridge and edges.

        It is a space of its own, named by the version that it retunes and the bridge's number,
        `faces/1~b3`. The edges to and from that version are there at once, not calibrated. MLflow
        has no copy of it. The same map registered again changes nothing.

        Raises:
            UnknownVersionError: its source is not registered.
            UsageError: it is no retuning, was fitted on another model, or its source is mapped.
        """
        with self.database.write() as connection:
            version = write_retuned(connection, self.root, bridge, details or {}, actor)
        return self.resolve(version)

    def _commit(self, candidate: registering.Candidate, actor: str | None) -> Version:
        return self.resolve(
            registering.commit_version(self.database, self.root, self.tracking, candidate, actor)
        )

    # --- finding and loading ----------------------------------------------------------------

    def resolve(self, reference: str) -> Version:
        """Return the version that `faces/1`, `faces@serving` or `faces` names.

        `faces` alone is `faces@serving`, or the only version while nothing was promoted.

        Raises:
            UnknownVersionError: there is none; it lists those that are registered.
        """
        with self.database.read() as connection:
            return find_version(connection, reference)

    def get(self, reference: str) -> Version:
        """Return what `resolve` returns."""
        return self.resolve(reference)

    def list(self, name: str | None = None) -> Versions:
        """Return the registered versions (of one name), by name and number."""
        with self.database.read() as connection:
            return list_versions(connection, name)

    def load(self, reference: str) -> RegistryEmbedder | RetunedEmbedder:
        """Load a version's model: hashes, then parsing, then its witnesses.

        A network loads torch, an ONNX model only onnxruntime; MLflow is not needed. A retuned
        version is its base's model and the map; without a model it maps vectors only.

        Raises:
            UnknownVersionError: no such version.
            NoModelError: it has only vectors.
            TamperedError, MissingPathError, UnsafeModelError: its files are not what they were.
            WitnessError: it gives other vectors than when it was registered.
        """
        version = self.resolve(reference)
        if version.retuned_from is not None:
            return self._open_retuned(version, version.retuned_from)
        version = self._with_model(reference)
        return open_model(self._folder(version), version.version, version.files)

    def people(self, version: Version) -> bytes | None:
        """Return what is kept of the people that a version was trained on, None where nothing is.

        Raises:
            TamperedError, MissingPathError: the file is not what was registered.
        """
        sha256 = version.files.get(PEOPLE)
        return None if sha256 is None else read_checked(self._folder(version) / PEOPLE, sha256)

    def network(self, reference: str) -> EmbeddingNetwork:
        """Load a version's network to start a training from, after the checks of `load`.

        Raises:
            RegistryError: it is an ONNX file or a retuned version; otherwise as `load`.
        """
        version = self.resolve(reference)
        if version.retuned_from is not None:
            raise RegistryError(
                f"{version.version} is {version.retuned_from} and a map, which cannot be trained "
                f"further; start from {version.retuned_from}"
            )
        version = self._with_model(reference)
        return open_network(self._folder(version), version.version, version.files)

    def _open_retuned(self, version: Version, base: str) -> RetunedEmbedder:
        bridge = self.bridge(int(version.details["bridge"]))
        origin = self.resolve(base)
        model = None
        if origin.kind in MODEL_FILES:
            model = open_model(self._folder(origin), origin.version, origin.files)
        return RetunedEmbedder(version, bridge, model)

    def _with_model(self, reference: str) -> Version:
        version = self.resolve(reference)
        if version.kind not in MODEL_FILES:
            raise NoModelError(version.version)
        return version

    def _folder(self, version: Version) -> Path:
        return self.root / registering.MODELS / version.slug

    # --- aliases ----------------------------------------------------------------------------

    def promote(
        self,
        reference: str,
        *,
        reason: str,
        actor: str | None = None,
        alias: str = aliases.SERVING,
    ) -> Version:
        """Let `NAME@alias` point at a version, say why in the ledger, and mirror it to MLflow.

        Raises:
            UsageError: no reason was given.
            InvalidNameError: the alias cannot be used.
            UnknownVersionError: no such version.
            RegistryError: MLflow cannot be reached; nothing was changed.
        """
        if not reason.strip():
            raise UsageError("promote needs a reason; the ledger keeps it (--reason TEXT)")
        aliases.check_alias(alias)
        version = self.resolve(reference)
        if version.mlflow_uri is not None:
            self.tracking.connect()  # may take seconds: before the write lock is taken
        with self.database.write() as connection:
            dropped = aliases.point(
                connection,
                version.name,
                alias,
                version.version,
                action="promote",
                reason=reason,
                actor=actor,
            )
            self._mirror(version, alias, dropped)
        return self.resolve(version.version)

    def set_alias(  # noqa: PLR0917 -- all parts of one sentence: who, what, why
        self,
        connection: Connection,
        name: str,
        alias: str,
        version: str,
        reason: str | None = None,
        actor: str | None = None,
    ) -> None:
        """Let `name@alias` point at `version` inside the caller's open write transaction.

        MLflow hears of it when that commits. Going live and going back must not depend on MLflow,
        so that a mirror which fails is only logged; `mirror_aliases` repairs it.

        Raises:
            UsageError: the version has another name.
            InvalidNameError, UnknownVersionError: as `promote`.
        """
        dropped = aliases.point(
            connection, name, alias, version, action="alias", reason=reason, actor=actor
        )
        found = find_version(connection, version)

        def mirror(_connection: Connection) -> None:
            try:
                self._mirror(found, alias, dropped)
            except RegistryError as error:
                _log.warning("alias %s@%s is not mirrored to MLflow: %s", name, alias, error)

        event.listen(connection, "commit", mirror, once=True)

    def mirror_aliases(self) -> int:
        """Write every alias of the database to MLflow again; returns how many.

        Raises:
            RegistryError: MLflow cannot be reached.
        """
        with self.database.read() as connection:
            pointing = [
                (alias, find_version(connection, version))
                for _, alias, version in aliases.current(connection)
            ]
        for alias, version in pointing:
            self._mirror(version, alias, [])
        return len(pointing)

    def _mirror(self, version: Version, alias: str, dropped: Sequence[tuple[str, str]]) -> None:
        for name, old in dropped:
            self.tracking.delete_alias(name, aliases.mirrored_alias(old))
        if version.mlflow_uri is not None:
            name, number = version.mlflow_uri.removeprefix("models:/").rsplit("/", 1)
            self.tracking.set_alias(name, aliases.mirrored_alias(alias), int(number))

    # --- ledger -----------------------------------------------------------------------------

    def ledger(self, subject: str | None = None) -> Entries:
        """Return the ledger, oldest first; `subject` (a version, edge, gallery) picks its part."""
        with self.database.read() as connection:
            return read_ledger(connection, subject)

    def record(  # noqa: PLR0917 -- as `segue.registry.record`
        self,
        connection: Connection,
        action: str,
        subject: str,
        reason: str | None = None,
        details: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> int:
        """Append to the ledger inside the caller's transaction (`segue.registry.record`)."""
        return record(connection, action, subject, reason, details, actor)

    # --- edges, bridges, reports ------------------------------------------------------------

    def save_edge(
        self,
        connection: Connection | None = None,
        edge: Edge | None = None,
        *,
        actor: str | None = None,
        **fields: Unpack[EdgeFields],
    ) -> None:
        """Save a measured edge, in `connection`'s transaction or in one of its own.

        Give it as an `Edge`, or its fields by name (`probe=`, `stored=`, `calibration=` …). An edge
        measured before is replaced; the ledger keeps that it happened.

        Raises:
            UnknownVersionError: one of its versions is not registered.
            UsageError: outputs of other dimensions, or a bridge of other versions.
        """
        if edge is None:
            edge = Edge(**fields)
        if connection is not None:
            edges.write_edge(connection, self.root, edge, actor)
            return
        with self.database.write() as own:
            edges.write_edge(own, self.root, edge, actor)

    def edge(self, probe: str, stored: str) -> Edge:
        """Return the measured edge from probe version to stored version.

        Raises:
            UnknownVersionError: one of them is not registered.
            UnmeasuredEdgeError: it was never measured.
            TamperedError, FormatError: its bridge is not what was saved.
        """
        with self.database.read() as connection:
            ids = [find_version(connection, x).version for x in (probe, stored)]
            found = edges.read_edge(connection, self.root, ids[0], ids[1])
        if found is None:
            raise UnmeasuredEdgeError(ids[0], ids[1])
        return found

    def edges(self) -> Edges:
        """Return every measured edge, by probe and stored version.

        Raises:
            TamperedError, MissingPathError, FormatError: a bridge is not what was saved;
                `edge_rows` lists the edges all the same.
        """
        with self.database.read() as connection:
            return edges.read_edges(connection, self.root)

    def edge_rows(self, reference: str | None = None) -> EdgeRows:
        """Return the measured edges (of one version) to look at, and what is damaged of them.

        Raises:
            UnknownVersionError: no such version.
        """
        with self.database.read() as connection:
            version = None if reference is None else find_version(connection, reference).version
            return read_edge_rows(connection, self.root, version)

    def check(self) -> Sentences:
        """Read every bridge, calibration and report; return a sentence for each that is damaged."""
        with self.database.read() as connection:
            return check_records(connection, self.root)

    def save_bridge(self, bridge: Bridge, *, actor: str | None = None) -> int:
        """Save a fitted bridge and return its number; the same bridge keeps its number.

        Raises:
            UnknownVersionError: its source or target is not registered.
            UsageError: it was fitted on other models than those registered.
        """
        with self.database.write() as connection:
            return edges.write_bridge(connection, self.root, bridge, actor)

    def bridge(self, number: int) -> Bridge:
        """Return a saved bridge.

        Raises:
            RegistryError: no such bridge.
            TamperedError, FormatError: its file is not what was saved.
        """
        with self.database.read() as connection:
            return edges.read_bridge(connection, self.root, number)

    def save_report(
        self,
        old: str,
        new: str,
        folder: Path,
        gate: GateResult,
        *,
        connection: Connection | None = None,
        actor: str | None = None,
    ) -> int:
        """Keep a compatibility report whose files are in `folder`, and return its number.

        `segue.evaluation.write_report` writes them, with the report's `Subject`.

        Raises:
            UnknownVersionError: `old` or `new` is not registered.
            UsageError: the folder is outside the workspace, or its report.json is of other versions
                or holds another gate's result.
            MissingPathError: it holds no report.json.
            RegistryError, EvaluationError: report.json is damaged, or the gate contradicts itself.
        """
        if connection is not None:
            return reports.write_report(
                connection, self.root, (old, new), folder, gate, actor=actor
            )
        with self.database.write() as own:
            return reports.write_report(own, self.root, (old, new), folder, gate, actor=actor)

    def report(self, old: str, new: str) -> StoredReport | None:
        """Return the newest report of `new` against `old`, or None.

        Raises:
            UnknownVersionError: one of them is not registered.
        """
        with self.database.read() as connection:
            ids = [find_version(connection, x).version for x in (old, new)]
            return reports.read_report(connection, self.root, ids[0], ids[1])

    def reports(self) -> Reports:
        """Return every compatibility report, the oldest first."""
        with self.database.read() as connection:
            return reports.read_reports(connection, self.root)

    def gate_of(self, old: str, new: str, *, connection: Connection | None = None) -> Gate:
        """Return what the gate says now of `new` in place of `old`.

        GO rests on the newest report of the two, and on edges that are stored as it measured them:
        with the same calibrations and bridges. Whoever acts on it in a transaction gives its
        `connection`.

        Raises:
            UnknownVersionError: one of them is not registered.
        """
        if connection is None:
            with self.database.read() as own:
                return self.gate_of(old, new, connection=own)
        ids = [find_version(connection, x).version for x in (old, new)]
        return gates.read_gate(connection, self.root, ids[0], ids[1])
