"""What people find in MLflow: models that load, runs that compare."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from segue.errors import NoModelError, RegistryError, TamperedError, UnknownNameError
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.gate import GateResult
from segue.evaluation.results import CompatibilityReport, FarPoint, Gain, Row
from segue.registry import Registry, Tracking, far_step
from segue.types import Preprocessing

IMAGES = np.random.default_rng(9).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def pyfunc(registry):
    """`mlflow.pyfunc.load_model` as a user calls it, on the test's own store."""
    import mlflow

    registry.tracking.connect()
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registry.tracking.uri)
    import mlflow.pyfunc

    yield mlflow.pyfunc.load_model
    mlflow.set_tracking_uri(before)


def copies(root):
    return sorted((root / "mlartifacts").rglob("MLmodel"))


def test_a_network_loads_through_mlflow(register, registry, pyfunc):
    """`models:/faces/1` and `models:/faces@serving` embed as `Registry.load` does."""
    register()
    registry.promote("faces/1", reason="x")
    expected = registry.load("faces/1").embed(IMAGES)["embedding"]
    for uri in ("models:/faces/1", "models:/faces@serving"):
        assert np.abs(pyfunc(uri).predict(IMAGES) - expected).max() < 1e-6


def test_an_onnx_model_loads_through_mlflow(registry, pyfunc, onnx_file):
    """A foreign model's copy embeds as `Registry.load` does."""
    registry.register_onnx("arc", onnx_file, preprocessing=Preprocessing(32, 32))
    expected = registry.load("arc/1").embed(IMAGES)["embedding"]
    assert np.abs(pyfunc("models:/arc/1").predict(IMAGES) - expected).max() < 1e-6


def test_what_is_kept_of_people_stays_in_the_workspace(register, registry, root, pyfunc):
    """It lies beside the weights under its hash; the copy has no trace of it, and loads."""
    with_people = register(people=b"{}")
    assert registry.people(with_people) == b"{}"
    assert registry.people(register()) is None
    assert pyfunc("models:/faces/1").predict(IMAGES).shape == (3, 8)
    assert len(copies(root)) == 2
    assert not list((root / "mlartifacts").rglob("people.json"))
    for manifest in (root / "mlartifacts").rglob("manifest.json"):
        assert "people" not in manifest.read_text(encoding="utf-8")
    (root / "models" / "faces-1" / "people.json").write_bytes(b"[]")
    with pytest.raises(TamperedError):
        registry.people(with_people)


def test_each_output_is_there_in_mlflow(registry, pyfunc):
    """`params={"output": …}` picks another output; an unknown one names those there are."""
    from segue.networks import build_network, save_weights

    settings = {"width": 2, "dimension": 8, "outputs": {"compatible": 4}}
    registry.register_network(
        "faces",
        architecture="small",
        settings=settings,
        weights=save_weights(build_network("small", settings)),
        preprocessing=Preprocessing(32, 32),
    )
    model = pyfunc("models:/faces/1")
    expected = registry.load("faces/1").embed(IMAGES)
    found = model.predict(IMAGES, params={"output": "compatible"})
    assert np.abs(found - expected["compatible"]).max() < 1e-6
    assert model.predict(IMAGES).shape == (3, 8)
    with pytest.raises(UnknownNameError, match="compatible"):
        model.predict(IMAGES, params={"output": "compatibel"})


def test_a_version_without_a_model_says_so_in_mlflow(registry, pyfunc):
    """A vectors-only version has its number in MLflow and refuses to load."""
    registry.register_vectors("vendor", dimension=5)
    with pytest.raises(NoModelError):
        pyfunc("models:/vendor/1")


def test_mlflows_copy_holds_data_files_alone(register, root):
    """Neither pickle nor code is in the copy; its requirements are named, not inferred."""
    register()
    (model,) = copies(root)
    names = {path.name for path in model.parent.rglob("*") if path.is_file()}
    assert names == {
        "MLmodel",
        "conda.yaml",
        "python_env.yaml",
        "requirements.txt",
        "manifest.json",
        "weights.safetensors",
        "witness.safetensors",
    }
    text = model.read_text()
    assert "loader_module: segue.registry.pyfunc" in text
    assert "code: null" in text
    assert not any(zipfile.is_zipfile(path) for path in model.parent.rglob("*") if path.is_file())
    requirements = (model.parent / "requirements.txt").read_text().split()
    assert [re.split("==", line)[0] for line in requirements] == ["mlflow", "segue", "torch"]


@pytest.mark.parametrize("name", ["weights.safetensors", "witness.safetensors"])
def test_a_changed_copy_is_refused(register, root, pyfunc, name):
    """MLflow's copy checks its own hashes when it is loaded."""
    register()
    (path,) = (root / "mlartifacts").rglob(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(TamperedError):
        pyfunc("models:/faces/1")


def test_a_version_in_mlflow_is_described(register, registry):
    """MLflow's page says what a version is, and which fingerprint it has."""
    version = register()
    found = registry.tracking.connect().get_model_version("faces", "1")
    assert found.description == "network small; outputs: embedding 8-d"
    assert found.tags == {"segue.kind": "network", "segue.fingerprint": version.fingerprint}
    assert found.status == "READY"


def test_a_version_is_linked_to_its_training_run(register, registry):
    """`details["run_id"]` of a training becomes the MLflow version's run."""
    with registry.tracking.training_run("faces base", {}, "d") as run:
        pass
    register(details={"run_id": run.run_id})
    assert registry.tracking.connect().get_model_version("faces", "1").run_id == run.run_id


def test_a_training_is_a_run_with_its_losses_and_settings(registry):
    """Settings, data fingerprint and losses by step are logged; values not finite are left out."""
    tracking = registry.tracking
    with tracking.training_run("faces base", {"margin": 0.2, "steps": 2}, "abc") as run:
        run.log(1, {"loss": 0.5, "gradient": float("nan")})
        run.log(2, {"loss": 0.25})
    found = tracking.connect().get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "faces base"
    assert found.data.params == {"margin": "0.2", "steps": "2", "data_fingerprint": "abc"}
    history = tracking.connect().get_metric_history(run.run_id, "loss")
    assert [(x.step, x.value) for x in history] == [(1, 0.5), (2, 0.25)]
    assert "gradient" not in found.data.metrics


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_training_that_stops_is_told_as_such(registry, error, status):
    """A failed or interrupted training is not left running in MLflow, and its error goes on."""
    with pytest.raises(error), registry.tracking.training_run("x", {}, "d") as run:
        raise error
    assert registry.tracking.connect().get_run(run.run_id).info.status == status


def test_a_training_goes_on_when_mlflow_goes_away(registry, caplog):
    """The first failure is one warning; training, and its end, are not disturbed."""
    tracking = registry.tracking
    with caplog.at_level(logging.WARNING), tracking.training_run("x", {}, "d") as run:
        tracking.connect().delete_run(run.run_id)
        for step in range(3):
            run.log(step, {"loss": 1.0})
    assert caplog.text.count("goes on without MLflow") == 1


def estimate(value):
    return Estimate(value, value - 0.01, value + 0.01)


def make_row(name, group, level, rho=None):
    zero = estimate(0.0)
    points = tuple(
        FarPoint(far, estimate(level * far**0.2), zero, zero, zero, 1.0, 200, far > 1e-4)
        for far in (1e-2, 1e-4)
    )
    curve = tuple((10 ** (-k / 10), level * 10 ** (-k / 50)) for k in range(31))
    return Row(
        name=name,
        group=group,
        rho=rho,
        calibrated=rho is not None,
        points=points,
        auc=0.9,
        rank1=estimate(0.5),
        rank1_against_v1=zero,
        mean_average_precision=estimate(0.4),
        map_against_v1=zero,
        negative_flips=0.1,
        deployed=(),
        curve=curve,
    )


def make_report(*rows):
    return CompatibilityReport(
        people=10,
        people_with_mates=10,
        images=40,
        genuine_pairs=60,
        impostor_pairs=700,
        fars=(1e-2, 1e-4),
        rhos=(0.0, 0.5, 1.0),
        bootstrap=10,
        seed=0,
        rows=rows,
        gains=(Gain("VAL@1e-02", estimate(0.3), None),),
        backfill=(),
        calibrations={},
    )


@pytest.fixture
def report():
    mixed = [make_row(f"search rho={r:g} calibrated", "search", 0.9, r) for r in (0.0, 0.5, 1.0)]
    return make_report(
        make_row("v1", "self", 0.8),
        make_row("twin", "self", 0.95),
        make_row("v2", "self", 0.94),
        make_row("v2 -> v1", "cross", 0.85),
        *mixed,
    )


@pytest.fixture
def folder(tmp_path):
    written = tmp_path / "report"
    written.mkdir()
    for name in ("roc.png", "report.md", "report.json"):
        (written / name).write_text(name)
    return written


def children(client, experiment, parent):
    found = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")
    return {run.info.run_name: run for run in found}


def test_the_curves_of_a_report_overlay_in_mlflow(registry, report, folder):
    """v1, v2 and mixed are child runs whose VAL by FAR share one grid of steps, one curve each."""
    tracking = registry.tracking
    gate = GateResult(go=True, checks=())
    with tracking.compatibility_run(report, gate, folder, old="faces/1", new="faces/2") as parent:
        pass
    client = tracking.connect()
    runs = children(client, tracking.experiment("segue-compatibility"), parent)
    assert set(runs) == {"v1", "twin", "v2", "cross", "mixed"}
    for name, run in runs.items():
        history = client.get_metric_history(run.info.run_id, "VAL by FAR")
        row = report.row(
            {"cross": "v2 -> v1", "mixed": "search rho=0.5 calibrated"}.get(name, name)
        )
        found = {x.step: x.value for x in history}
        assert found == {far_step(far): val for far, val in row.curve}
        assert set(found) == set(range(31))
        # MLflow's page draws a line, not a bar, where the last step is at least 1.
        assert run.info.status == "FINISHED"
        assert run.data.metrics["VAL at FAR 1e-02"] == pytest.approx(row.at(1e-2).val.value)
        assert "VAL at FAR 1e-04" not in run.data.metrics  # not measurable
        assert run.data.metrics["VAL by FAR"] == found[30]


def test_a_report_is_a_parent_run_with_its_files(registry, report, folder):
    """The parent has the pictures and tables as artifacts, versions, gate and gains."""
    tracking = registry.tracking
    gate = GateResult(go=False, checks=())
    with tracking.compatibility_run(report, gate, folder, old="faces/1", new="faces/2") as parent:
        pass
    client = tracking.connect()
    assert {x.path for x in client.list_artifacts(parent)} == {
        "roc.png",
        "report.md",
        "report.json",
    }
    run = client.get_run(parent)
    assert run.data.params["old"] == "faces/1"
    assert run.data.params["gate"] == "NO-GO"
    assert run.data.metrics["update gain VAL_1e-02"] == pytest.approx(0.3)
    history = client.get_metric_history(parent, "search VAL at FAR 1e-02 by rho")
    assert [x.step for x in history] == [0, 50, 100]


def test_a_report_without_a_twin_has_no_twin_run(registry, folder):
    """Children are the rows that the report has."""
    report = make_report(make_row("v1", "self", 0.8), make_row("v2", "self", 0.9))
    tracking = registry.tracking
    gate = GateResult(go=True, checks=())
    with tracking.compatibility_run(report, gate, folder, old="a/1", new="a/2") as parent:
        pass
    experiment = tracking.experiment("segue-compatibility")
    assert set(children(tracking.connect(), experiment, parent)) == {"v1", "v2"}


def test_a_report_that_fails_half_way_leaves_no_runs(registry, report, folder, monkeypatch):
    """Runs begun before an error are deleted, so that no half report is compared."""
    tracking = registry.tracking
    calls = []

    def fails(_self, run_id, _values):
        calls.append(run_id)
        if len(calls) > 2:
            raise RegistryError("away")

    monkeypatch.setattr(Tracking, "log_metrics", fails)
    gate = GateResult(go=True, checks=())
    logging = tracking.compatibility_run(report, gate, folder, old="a/1", new="a/2")
    with pytest.raises(RegistryError, match="away"), logging:
        pass
    experiment = tracking.experiment("segue-compatibility")
    assert tracking.connect().search_runs([experiment]) == []


def test_the_store_is_in_the_workspace_unless_told_otherwise(database, root, monkeypatch):
    """SQLite in the workspace by default; `MLFLOW_TRACKING_URI` and an argument go before it."""
    assert Registry(database, root).tracking.uri == f"sqlite:///{root}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert Registry(database, root).tracking.uri == "http://tracking.example:5000"
    assert Registry(database, root, "sqlite:///x.db").tracking.uri == "sqlite:///x.db"


def test_a_deleted_experiment_says_how_to_restore_it(registry):
    """MLflow refuses runs of a deleted experiment; the message names the command."""
    tracking = registry.tracking
    tracking.connect().delete_experiment(tracking.experiment("segue-training"))
    with (
        pytest.raises(RegistryError, match="mlflow experiments restore"),
        tracking.training_run("x", {}, "d"),
    ):
        pass


def test_mlflow_is_quiet_and_sends_no_telemetry(root):
    """Registering prints nothing at all, though it creates MLflow's store, and tells nobody."""
    code = f"""
import os
os.environ.pop("MLFLOW_DISABLE_TELEMETRY", None)
from pathlib import Path
from segue.database import Database
from segue.registry import Registry
root = Path({str(root)!r})
registry = Registry(Database(root / "segue.db"), root)
registry.register_vectors("faces", dimension=3)
registry.promote("faces/1", reason="x")
from mlflow.telemetry.utils import is_telemetry_disabled
assert is_telemetry_disabled()
assert not (Path.cwd() / "mlruns").exists()
"""
    done = run_python(code, cwd=root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


HEAVY = ("torch", "mlflow", "onnxruntime", "pandas", "faiss", "duckdb", "pyarrow", "scipy")


def run_python(code, cwd=None):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "MLFLOW"))}
    return subprocess.run(
        [sys.executable, "-W", "default::UserWarning", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
    )


def test_reading_the_registry_loads_nothing_heavy(register, registry, root):
    """Importing, resolving, listing and reading edges load none of the heavy libraries."""
    register()
    registry.save_edge(probe="faces/1", stored="faces/1")
    code = f"""
import sys
from pathlib import Path
from segue.database import Database
from segue.registry import Registry, Tracking
root = Path({str(root)!r})
registry = Registry(Database(root / "segue.db"), root)
registry.resolve("faces"), registry.list(), registry.edge("faces/1", "faces/1"), registry.ledger()
print([x for x in {HEAVY!r} if x in sys.modules])
"""
    done = run_python(code)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_an_onnx_model_loads_onnxruntime_alone(registry, root, onnx_file):
    """Loading and running an ONNX version loads neither torch nor mlflow."""
    registry.register_onnx("arc", onnx_file, preprocessing=Preprocessing(32, 32))
    code = f"""
import sys
import numpy as np
from pathlib import Path
from segue.database import Database
from segue.registry import Registry
root = Path({str(root)!r})
Registry(Database(root / "segue.db"), root).load("arc").embed(np.zeros((1, 32, 32, 3), np.uint8))
print([x for x in {HEAVY!r} if x in sys.modules])
"""
    done = run_python(code)
    assert (done.stdout.strip(), done.stderr) == ("['onnxruntime']", "")
