"""What is damaged of bridges, calibrations and reports is named, with what to do."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from segue import database as tables
from segue.errors import MissingPathError, UnknownVersionError
from segue.evaluation import Check, GateResult, Named, Subject
from segue.harmonic import Calibration, fit_bridge
from segue.harmonic.bridges import fit_retuning
from segue.registry import Edge


def unit(count, dimension, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def filled(register, registry, root):
    """Two versions, an edge with a bridge and one without, a report, a retuned version."""
    source, target = register(), register(which=1)
    bridge = fit_bridge(
        "procrustes",
        unit(50, 8, 1),
        unit(50, 8, 2),
        source_version="faces/2",
        target_version="faces/1",
    )
    distances = np.random.default_rng(2).beta(8, 3, 2000) * 3
    calibration = Calibration.fit(distances, people_pairs=400, people=40)
    registry.save_edge(None, Edge("faces/2", "faces/1", bridge=bridge, calibration=calibration))
    registry.save_edge(None, Edge("faces/1", "faces/1", calibration=calibration))
    folder = root / "reports" / "1"
    folder.mkdir(parents=True)
    gate = GateResult(True, (Check("tax", True, 0.0, 0.02, "the tax is within its budget"),))
    old, new = (Named(version.version, version.fingerprint) for version in (source, target))
    subject = Subject(old, new, new, "faces", "others", ())
    value = {"rows": [], "gate": gate.to_json(), **subject.to_json()}
    (folder / "report.json").write_text(json.dumps(value))
    registry.save_report("faces/1", "faces/2", folder, gate)
    registry.register_retuned(retuning(source))
    assert target.version == "faces/2"
    return registry


def retuning(version):
    return fit_retuning(
        unit(40, 8, 3),
        np.arange(40) // 2,
        version=version.version,
        fingerprint=version.fingerprint,
        steps=3,
    )


def _bridge_file(root, start):
    (path,) = (root / "bridges").glob(f"{start}*")
    return path


def _spoil(path, how):
    if how == "missing":
        path.unlink()
    elif how == "changed":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
    else:
        path.unlink()
        path.mkdir()


HOW = {
    "missing": "is missing",
    "changed": "is not what was saved",
    "folder": "cannot be read (Is a directory)",
}


def test_where_all_is_well_nothing_is_told(filled):
    """Every edge is listed, undamaged; one version's edges alone where it is named."""
    assert filled.check() == []
    rows = filled.edge_rows()
    assert [row.label for row in rows] == [edge.label for edge in filled.edges()]
    assert {row.damage for row in rows} == {""}
    assert [row.label for row in filled.edge_rows("faces/2")] == ["faces/2 -> faces/1"]
    (row,) = filled.edge_rows("faces/2")
    edge = filled.edge("faces/2", "faces/1")
    assert (row.bridge, row.calibrated, row.created_at) == (1, True, edge.created_at)
    assert (row.probe_output, row.stored_output) == (edge.probe_output, edge.stored_output)
    with pytest.raises(UnknownVersionError):
        filled.edge_rows("faces/9")


@pytest.mark.parametrize("how", list(HOW))
def test_a_damaged_bridge_is_named_with_what_uses_it(filled, root, how):
    """The others are listed as before; the edge whose bridge it is says so."""
    path = _bridge_file(root, "faces-2--")
    _spoil(path, how)
    (problem,) = filled.check()
    assert problem.startswith("bridge 1, faces/2 -> faces/1 (used by edge faces/2 -> faces/1): ")
    assert f"bridges/{path.name}" in problem
    assert "`segue train bridge --old faces/1 --new faces/2 --replace`" in problem
    damage = {row.label: row.damage for row in filled.edge_rows()}
    assert HOW[how] in damage.pop("faces/2 -> faces/1")
    assert set(damage.values()) == {""}
    assert "faces/1 -> faces/1" in damage
    assert len(filled.edge_rows("faces/1")) == 4


def test_a_damaged_map_of_a_retuned_version_is_named(filled, root):
    """With the version, the edge that has it, and the command that fits it."""
    _bridge_file(root, "faces-1-b2").unlink()
    (problem,) = filled.check()
    used = "(used by version faces/1~b2, edge faces/1 -> faces/1~b2)"
    assert problem.startswith(f"bridge 2, faces/1 -> faces/1~b2 {used}: ")
    assert problem.endswith("`segue train retune --old faces/1`")


def test_a_bridge_that_nothing_uses_any_more_is_named_too(filled, root):
    """An edge that was replaced leaves its bridge."""
    filled.save_edge(probe="faces/2", stored="faces/1")
    _bridge_file(root, "faces-2--").unlink()
    (problem,) = filled.check()
    assert "(nothing uses it)" in problem


@pytest.mark.parametrize("how", ["missing", "changed"])
def test_a_bridge_that_is_saved_again_is_whole_again(filled, registry, root, how):
    """The same bridge keeps its number, and its file is put back; so is a retuning's."""
    bridge, version = filled.bridge(1), filled.resolve("faces/1")
    for start in ("faces-2--", "faces-1-b2"):
        _spoil(_bridge_file(root, start), how)
    assert len(filled.check()) == 2
    assert registry.save_bridge(bridge) == 1
    assert registry.register_retuned(retuning(version)).version == "faces/1~b2"
    assert filled.check() == []
    assert registry.bridge(1).to_bytes() == bridge.to_bytes()


def test_a_bridge_on_from_a_retuned_version_says_how_it_is_measured_again(filled, root):
    """The map of v1's probes for a version that is compared with the retuned one."""
    bridge = filled.bridge(2)
    number = filled.save_bridge(replace(bridge, target_version="faces/2", target_fingerprint=""))
    _bridge_file(root, "faces-1--faces-2").unlink()
    (problem,) = filled.check()
    assert problem.startswith(f"bridge {number}, faces/1 -> faces/2 (nothing uses it)")
    assert "`segue evaluate compatibility --new faces/2`, the retuned faces/1 as --old" in problem


def test_a_damaged_calibration_is_named(filled, database):
    """With its edge; the edge is listed as one that cannot be used."""
    table = tables.edges
    with database.write() as connection:
        value = {**filled.edge("faces/1", "faces/1").calibration.to_json(), "people": -1}
        there = (table.c.probe == "faces/1") & (table.c.stored == "faces/1")
        connection.execute(table.update().where(there).values(calibration=value))
    (problem,) = filled.check()
    assert problem.startswith("edge faces/1 -> faces/1: the calibration is damaged")
    assert "measure the edge again" in problem
    damaged = [row.label for row in filled.edge_rows() if row.damage]
    assert damaged == ["faces/1 -> faces/1"]


@pytest.mark.parametrize("how", list(HOW))
def test_a_damaged_report_is_named(filled, root, how):
    """With both versions and the command that measures them."""
    _spoil(root / "reports" / "1" / "report.json", how)
    (problem,) = filled.check()
    assert problem.startswith("report 1, faces/2 against faces/1: its file ")
    assert "`segue evaluate compatibility --old faces/1 --new faces/2`" in problem
    assert HOW[how] in problem


def test_a_report_without_a_gate_is_named(filled, database):
    """What decides an upgrade is looked at too."""
    with database.write() as connection:
        connection.execute(tables.reports.update().values(gate=[]))
    assert "the gate's result of report 1 is not the one in" in filled.check()[0]


def test_an_edge_is_still_refused_where_its_bridge_is_gone(filled, root):
    """Listing it is not comparing by it."""
    _bridge_file(root, "faces-2--").unlink()
    with pytest.raises(MissingPathError):
        filled.edge("faces/2", "faces/1")
