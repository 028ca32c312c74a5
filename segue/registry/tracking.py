"""MLflow, and the only place that speaks to it: runs to look at, copies of models, aliases.

Nothing of Segue reads back what is written here. MLflow is imported with the first thing that is
told to it, its telemetry off and its logs quiet; its store is created then, once. It is never told
item ids, identities or vectors.
"""

from __future__ import annotations

import logging
import math
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from segue.errors import RegistryError
from segue.registry.curves import NOTE, child_rows, report_metrics, row_metrics
from segue.registry.mlflow_store import connect, is_database, public_uri, sqlite_file, translated
from segue.registry.moved_store import STORE, relocate_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from segue.evaluation.gate import GateResult
    from segue.evaluation.results import CompatibilityReport

_log = logging.getLogger(__name__)

TRAINING = "segue-training"
COMPATIBILITY = "segue-compatibility"
"""The MLflow experiments that runs are kept in."""

_PARAMETER_LENGTH = 6000  # MLflow's own limit


class TrainingRun:
    """One training as MLflow sees it.

    A training is not lost because MLflow went away: from its first failure on, nothing more is told
    to it, and one warning is logged.
    """

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        self.run_id = run_id
        self._tracking = tracking
        self._lost = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics of one step; values that are not finite are left out."""
        if self._lost:
            return
        try:
            self._tracking.log_metrics(
                self.run_id, [(name, value, step) for name, value in metrics.items()]
            )
        except RegistryError as error:
            self._lost = True
            _log.warning("the training goes on without MLflow: %s", error)


class Tracking:
    """One MLflow store.

    Args:
        uri: MLflow's tracking URI: `sqlite:///…`, another database, or a server.
        artifacts: where files go when the store is a database; a server decides for itself.
    """

    def __init__(self, uri: str, artifacts: Path) -> None:
        self.uri = uri
        self.artifacts = artifacts
        self._client: Any = None

    def connect(self) -> Any:
        """Return MLflow's client, creating the store when it is not there yet (this takes seconds).

        The workspace's own store is adapted to the place where the workspace is now.

        Raises:
            RegistryError: MLflow cannot be reached.
            LockedError: the store was moved here, and somebody writes it.
        """
        if self._client is None:
            store = self.artifacts.parent / STORE
            path = sqlite_file(self.uri)
            if path is not None and path.resolve() == store.resolve():
                relocate_store(store, self.artifacts.parent)
            with translated(self.uri):
                self._client = connect(self.uri)
        return self._client

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, created when it is not there yet.

        Raises:
            RegistryError: MLflow cannot be reached, or it was deleted there.
        """
        client = self.connect()
        with translated(self.uri):
            found = client.get_experiment_by_name(name)
            if found is None:
                location = self.artifacts.resolve().as_uri() if is_database(self.uri) else None
                return str(client.create_experiment(name, artifact_location=location))
        if found.lifecycle_stage != "active":
            raise RegistryError(
                f"MLflow's experiment {name!r} at {public_uri(self.uri)} was deleted; "
                f"restore it with `mlflow experiments restore -x {found.experiment_id}`"
            )
        return str(found.experiment_id)

    # --- runs -------------------------------------------------------------------------------

    @contextmanager
    def training_run(
        self, name: str, settings: Mapping[str, Any], fingerprint: str
    ) -> Iterator[TrainingRun]:
        """Open the run of one training: finished on leaving, failed or killed on an error.

        Args:
            name: shown in MLflow, such as `faces base`.
            settings: hyper-parameters, logged as parameters.
            fingerprint: of the training data.

        Raises:
            RegistryError: MLflow cannot be reached when the training starts.
        """
        run_id = self._start(TRAINING, name, {"segue.data_fingerprint": fingerprint})
        self._log_parameters(run_id, {**settings, "data_fingerprint": fingerprint})
        run = TrainingRun(self, run_id)
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            with suppress(RegistryError):  # told by the first log that failed
                self._end(run_id, status)

    @contextmanager
    def compatibility_run(
        self, report: CompatibilityReport, gate: GateResult, folder: Path, *, old: str, new: str
    ) -> Iterator[str]:
        """Log one compatibility report: a parent run, and a child run for each curve.

        What is done within it belongs to it: where that fails, the runs are deleted again.

        Select the children v1, v2, mixed … in MLflow and compare them: their `VAL by FAR` share one
        grid of steps (`far_step`), so that its own page overlays them.

        Args:
            report: what was measured.
            gate: what the gate says of it.
            folder: the report's files (roc.png, report.md, report.json), the parent's artifacts.
            old: the old version's id.
            new: the new version's id.

        Yields:
            The parent's run id.

        Raises:
            RegistryError: MLflow cannot be reached; runs begun are deleted again.
        """
        parameters = {
            "old": old,
            "new": new,
            "gate": "GO" if gate.go else "NO-GO",
            "people": report.people,
            "images": report.images,
            "bootstrap": report.bootstrap,
            "seed": report.seed,
        }
        note = {"mlflow.note.content": NOTE}
        begun: list[str] = []
        try:
            parent = self._start(COMPATIBILITY, f"{old} to {new}", note)
            begun.append(parent)
            self._log_parameters(parent, parameters)
            self.log_metrics(parent, report_metrics(report))
            client = self.connect()
            with translated(self.uri):
                client.log_artifacts(parent, str(folder))
            for child, row in child_rows(report).items():
                run_id = self._start(COMPATIBILITY, child, {**note, "mlflow.parentRunId": parent})
                begun.append(run_id)
                self._log_parameters(run_id, {**parameters, "row": row.name})
                self.log_metrics(run_id, row_metrics(row))
                self._end(run_id, "FINISHED")
            self._end(parent, "FINISHED")
            yield parent
        except BaseException:
            self._delete_runs(begun)
            raise

    def log_metrics(self, run_id: str, values: list[tuple[str, float, int]]) -> None:
        """Log (name, value, step) triples; values that are not finite are left out.

        Raises:
            RegistryError: MLflow cannot be reached.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        client = self.connect()
        metrics = [
            Metric(_metric_name(name), float(value), now, step)
            for name, value, step in values
            if math.isfinite(value)
        ]
        with translated(self.uri):
            for first in range(0, len(metrics), 1000):  # MLflow's limit of one batch
                client.log_batch(run_id, metrics=metrics[first : first + 1000])

    def _start(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        identifier = self.experiment(experiment)
        client = self.connect()
        with translated(self.uri):
            run = client.create_run(identifier, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def _end(self, run_id: str, status: str) -> None:
        client = self.connect()
        with translated(self.uri):
            client.set_terminated(run_id, status)

    def _log_parameters(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        client = self.connect()
        parameters = [Param(key, str(value)[:_PARAMETER_LENGTH]) for key, value in values.items()]
        with translated(self.uri):
            for first in range(0, len(parameters), 100):  # MLflow's limit of one batch
                client.log_batch(run_id, params=parameters[first : first + 100])

    def _delete_runs(self, run_ids: list[str]) -> None:
        for run_id in run_ids:
            with suppress(RegistryError), translated(self.uri):
                self.connect().delete_run(run_id)

    # --- aliases ----------------------------------------------------------------------------

    def set_alias(self, name: str, alias: str, number: int) -> None:
        """Mirror an alias to MLflow's model version `number`.

        Raises:
            RegistryError: MLflow cannot be reached, or has no such version.
        """
        client = self.connect()
        with translated(self.uri):
            client.set_registered_model_alias(name, alias, str(number))

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove a mirrored alias; one that is not there is no error.

        Raises:
            RegistryError: MLflow cannot be reached.
        """
        client = self.connect()
        with translated(self.uri):
            client.delete_registered_model_alias(name, alias)


def default_uri(root: Path) -> str:
    """Return where MLflow's store is: `MLFLOW_TRACKING_URI`, or SQLite in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / STORE}"


def _metric_name(name: str) -> str:
    """Return `name` with what MLflow allows: letters, digits, `_ - . : /` and spaces."""
    return "".join(c if c.isalnum() or c in "_-. /:" else "_" for c in name)
