"""Edges with their calibrations and bridges, and reports."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segue.errors import (
    FormatError,
    MissingPathError,
    NoModelError,
    RegistryError,
    StaleEdgeError,
    TamperedError,
    UnknownVersionError,
    UnmeasuredEdgeError,
    UsageError,
)
from segue.harmonic import Calibration, fit_bridge
from segue.registry import Edge, read_edge
from segue.registry.edges import calibrated, calibration_figures, write_edge


@pytest.fixture(scope="module")
def calibration():
    distances = np.random.default_rng(2).beta(8, 3, 20000) * 3
    return Calibration.fit(distances, people_pairs=400, people=40)


def unit(count, dimension, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_bridge(source, target, kind="procrustes"):
    return fit_bridge(
        kind,
        unit(50, source.dimension, 1),
        unit(50, target.dimension, 2),
        source_version=source.version,
        target_version=target.version,
        source_fingerprint=source.fingerprint,
        target_fingerprint=target.fingerprint,
    )


def test_an_edge_comes_back_with_its_calibration(register, registry, database, root, calibration):
    """What was measured of an edge is read back the same, with and without a `Registry`."""
    register()
    register(which=1)
    measured = {"VAL": {"1e-2": 0.4}, "rank1": 0.3}
    registry.save_edge(None, Edge("faces/2", "faces/1", calibration=calibration, measured=measured))
    edge = registry.edge("faces/2", "faces/1")
    distances = np.linspace(0, 4, 200)
    assert (edge.calibration.log10_far(distances) == calibration.log10_far(distances)).all()
    assert (edge.probe_output, edge.stored_output, edge.bridge) == ("embedding", "embedding", None)
    assert edge.measured == measured
    assert edge.created_at
    with database.read() as connection:
        again = read_edge(connection, root, "faces/2", "faces/1")
        assert again.measured == measured
        assert read_edge(connection, root, "faces/1", "faces/2") is None
    assert [(x.probe, x.stored) for x in registry.edges()] == [("faces/2", "faces/1")]


def test_an_edge_is_never_inferred(register, registry):
    """The other direction, and a pair never measured, raise."""
    register()
    register(which=1)
    registry.save_edge(probe="faces/2", stored="faces/1")
    with pytest.raises(UnmeasuredEdgeError, match="faces/1 -> faces/2"):
        registry.edge("faces/1", "faces/2")
    with pytest.raises(UnknownVersionError):
        registry.edge("faces/1", "faces/7")
    with pytest.raises(UnknownVersionError):
        registry.save_edge(probe="faces/1", stored="faces/7")


def test_measuring_again_replaces_the_edge_and_the_ledger_keeps_both(register, registry):
    """One row per edge; the history is in the ledger."""
    register()
    for value in (1, 2):
        registry.save_edge(probe="faces/1", stored="faces/1", measured={"n": value})
    assert registry.edge("faces/1", "faces/1").measured == {"n": 2}
    assert len(registry.ledger("faces/1 -> faces/1")) == 2


def test_an_edge_that_others_saved_meanwhile_is_not_overwritten(
    register, registry, database, root, calibration
):
    """Written back with `since`, an edge takes the place of the one that was read, and no other."""
    register()

    def write(since, **values):
        with database.write() as connection:
            write_edge(connection, root, Edge("faces/1", "faces/1", **values), since=since)

    write("", measured={"n": 1})
    first = registry.edge("faces/1", "faces/1")
    write(first.created_at, calibration=calibration)
    second = registry.edge("faces/1", "faces/1")
    for since in ("", first.created_at):
        with pytest.raises(StaleEdgeError, match="run the same command again") as caught:
            write(since, measured={"n": 2})
        assert (caught.value.probe, caught.value.stored) == ("faces/1", "faces/1")
        assert caught.value.exit_code == 75
    assert registry.edge("faces/1", "faces/1") == second
    write(None, measured={"n": 3})
    assert [entry.details["replaced"] for entry in registry.ledger("faces/1 -> faces/1")] == [
        None,
        {"created_at": first.created_at, "bridge": None, "report": None, "calibrated": False},
        {"created_at": second.created_at, "bridge": None, "report": None, "calibrated": True},
    ]


def test_an_edge_belongs_to_the_callers_transaction(register, registry, database):
    """Saved on an open connection, an edge vanishes when that rolls back."""
    register()

    def interrupted():
        with database.write() as connection:
            registry.save_edge(connection, probe="faces/1", stored="faces/1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert registry.edges() == []


@pytest.mark.parametrize("kind", ["procrustes", "ridge"])
def test_a_bridge_comes_back_through_its_edge(register, registry, root, kind):
    """The bridge of an edge is a file below bridges/ and maps as it did."""
    source = register()
    target = registry.register_vectors("vendor", dimension=5)
    bridge = make_bridge(source, target, kind)
    registry.save_edge(probe="faces/1", stored="vendor/1", bridge=bridge)
    number = registry.save_bridge(bridge)
    vectors = unit(4, 8, 3)
    for found in (registry.edge("faces/1", "vendor/1").bridge, registry.bridge(number)):
        assert found.kind == kind
        expected = bridge.apply(vectors, version="faces/1")
        assert np.abs(found.apply(vectors, version="faces/1") - expected).max() == 0
    assert len(list((root / "bridges").iterdir())) == 1
    assert [x.action for x in registry.ledger("faces/1 -> vendor/1")] == ["bridge", "edge"]


def test_a_changed_bridge_is_refused(register, registry, root):
    """A bridge's file is checked against its hash; one that is gone is named."""
    source = register()
    target = registry.register_vectors("vendor", dimension=5)
    registry.save_edge(probe="faces/1", stored="vendor/1", bridge=make_bridge(source, target))
    (path,) = (root / "bridges").iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(TamperedError, match="bridges"):
        registry.edge("faces/1", "vendor/1")
    path.unlink()
    with pytest.raises(MissingPathError):
        registry.edges()


def test_a_bridge_of_other_models_or_another_direction_is_refused(register, registry):
    """A bridge is kept only for the very models, and the direction, that it was fitted on."""
    source = register()
    target = registry.register_vectors("vendor", dimension=8)
    bridge = make_bridge(source, target)
    with pytest.raises(UsageError, match="maps other vectors"):
        registry.save_edge(probe="vendor/1", stored="faces/1", bridge=bridge)
    stranger = fit_bridge(
        "procrustes",
        unit(9, 8, 1),
        unit(9, 8, 2),
        source_version="faces/1",
        target_version="vendor/1",
        source_fingerprint="0" * 64,
    )
    with pytest.raises(UsageError, match="fitted on another faces/1"):
        registry.save_bridge(stranger)
    assert registry.edges() == []


def test_mapped_vectors_are_a_version_of_their_own(register, registry):
    """`faces/1~b1` lives in the target's space, has its own edges, and is never `faces` itself."""
    source = register()
    target = registry.register_vectors("vendor", dimension=5)
    number = registry.save_bridge(make_bridge(source, target))
    mapped = registry.register_mapped("faces/1", number)
    assert (mapped.version, mapped.kind, mapped.dimension) == (f"faces/1~b{number}", "mapped", 5)
    assert mapped.fingerprint not in {source.fingerprint, target.fingerprint}
    assert registry.register_mapped("faces/1", number) == mapped
    assert registry.resolve("faces").version == "faces/1"
    registry.save_edge(probe="vendor/1", stored=mapped.version)
    assert registry.edge("vendor/1", mapped.version).bridge is None
    with pytest.raises(NoModelError):
        registry.load(mapped.version)
    with pytest.raises(UsageError, match="not of vendor/1"):
        registry.register_mapped("vendor/1", number)
    with pytest.raises(RegistryError, match="no bridge 9"):
        registry.register_mapped("faces/1", 9)
    assert register(which=1).version == "faces/2"


def test_outputs_of_an_edge_must_exist_and_fit(register, registry):
    """An output that a version has not, or one of another dimension, makes no edge."""
    register()
    registry.register_vectors("vendor", dimension=5)
    with pytest.raises(UsageError, match="no output 'compatible'"):
        registry.save_edge(probe="faces/1", stored="faces/1", probe_output="compatible")
    with pytest.raises(UsageError, match="dimension 8"):
        registry.save_edge(probe="faces/1", stored="vendor/1")


def test_a_calibration_of_a_newer_segue_is_refused(register, registry, database, calibration):
    """An unknown format of a stored calibration says so."""
    from segue.database import edges

    register()
    registry.save_edge(probe="faces/1", stored="faces/1", calibration=calibration)
    with database.write() as connection:
        value = {**calibration.to_json(), "format": 99}
        connection.execute(edges.update().values(calibration=value))
    with pytest.raises(FormatError, match="99"):
        registry.edge("faces/1", "faces/1")


def test_measured_tells_of_the_calibration_that_an_edge_has(calibration):
    """With a new calibration all that was told of the one before is gone, and so is its report."""
    other = Calibration.fit(np.random.default_rng(4).beta(8, 3, 900), people_pairs=90, people=9)
    first = calibrated(Edge("faces/1", "faces/1"), calibration, on="gallery staff")
    assert first.measured == calibration_figures(calibration, "gallery staff")
    assert first.measured["people"] == 40
    bridge, figures = {"kind": "ridge"}, {"val": {"0.01": 0.5}, "rank1": 0.4, "auc": 0.9}
    known = replace(first, measured={**first.measured, "bridge": bridge})
    second = calibrated(known, other, on="part calibration", figures=figures, report=7)
    told = {"bridge": bridge, **calibration_figures(other, "part calibration")}
    assert second.measured == {**told, **figures}
    assert (second.calibration, second.report) == (other, 7)
    assert calibrated(second, other, on="part calibration") == second
    assert calibrated(second, calibration, on="gallery staff").report is None
    few = calibrated(second, calibration, on="gallery staff", figures={"rank1": 0.1})
    assert few.measured == {
        "bridge": bridge, "rank1": 0.1, **calibration_figures(calibration, "gallery staff")
    }  # fmt: skip
    again = calibrated(second, calibration, on="gallery staff")
    assert {name: again.measured[name] for name in figures} == figures
