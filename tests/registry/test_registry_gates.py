"""The gate as it stands now: a report's GO holds for the edges that it measured, and no others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa

from segue.database import reports as reports_table
from segue.errors import EvaluationError, MissingPathError, RegistryError, SegueError, UsageError
from segue.evaluation import Check, GateResult, Named, Subject, SubjectEdge
from segue.files import sha256_bytes, sha256_file
from segue.harmonic import Calibration, fit_bridge
from segue.registry import Edge

OLD, NEW = "faces/1", "faces/2"
GO = GateResult(True, (Check("tax", True, 0.0, 0.02, "the tax is within its budget"),))
NO_GO = GateResult(False, (Check("tax", False, 0.1, 0.02, "the tax is above its budget"),))
ROLES = {OLD: "v1", NEW: "v2"}


def fitted(seed, people=40):
    distances = np.random.default_rng(seed).beta(8, 3, 5000) * 3
    return Calibration.fit(distances, people_pairs=400, people=people)


class Upgrade:
    """Two registered versions, their edges, and reports of them."""

    def __init__(self, registry, root, register):
        self.registry, self.root = registry, root
        self.old, self.new = register(), register(which=1)
        self.edges = [
            Edge(probe, stored, calibration=fitted(number))
            for number, (probe, stored) in enumerate(
                [(OLD, OLD), (NEW, NEW), (NEW, OLD), (OLD, NEW)]
            )
        ]

    def value(self, gate, **changes):
        """What report.json holds of these edges."""
        old, new = (Named(v.version, v.fingerprint) for v in (self.old, self.new))
        edges = tuple(
            SubjectEdge(
                edge.probe, edge.stored, edge.probe_output, edge.stored_output, self.sha(edge)
            )
            for edge in self.edges
        )
        return {
            "gate": gate.to_json(),
            "calibrations": [
                {
                    "probe": ROLES[edge.probe],
                    "stored": ROLES[edge.stored],
                    "calibration": edge.calibration.to_json(),
                }
                for edge in self.edges
            ],
            **Subject(old, new, new, "faces", "others", edges).to_json(),
            **changes,
        }

    def sha(self, edge):
        return None if edge.bridge is None else sha256_bytes(edge.bridge.to_bytes())

    def folder(self, value):
        folder = self.root / "reports" / str(len(self.registry.reports()))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(value))
        return folder

    def report(self, gate=GO):
        """Keep a report and its edges, as a measurement does."""
        folder = self.folder(self.value(gate))
        number = self.registry.save_report(OLD, NEW, folder, gate)
        for edge in self.edges:
            self.registry.save_edge(None, replace(edge, report=number))
        return folder

    def older(self):
        """Turn the newest report into one of the form that named neither versions nor faces."""
        stored = self.registry.report(OLD, NEW)
        value = stored.read()
        for key in ("versions", "data", "edges"):
            del value[key]
        self.forge(value)

    def forge(self, value, gate=None):
        """Change the newest report's file, and the hash and gate that the database has of it."""
        stored = self.registry.report(OLD, NEW)
        file = stored.path / "report.json"
        file.write_text(json.dumps(value))
        changed = {"sha256": sha256_file(file)}
        if gate is not None:
            changed["gate"] = gate
        with self.registry.database.write() as connection:
            connection.execute(
                sa.update(reports_table)
                .where(reports_table.c.report == stored.report)
                .values(**changed)
            )

    def gate(self):
        return self.registry.gate_of(OLD, NEW)

    def refused(self):
        """The one sentence of a NO-GO that the report itself does not say."""
        gate = self.gate()
        assert not gate.go
        assert gate.edges == frozenset()
        (sentence,) = gate.stale
        assert "Measure again: `segue evaluate compatibility --old faces/1 --new" in sentence
        return sentence

    def bridge(self, seed):
        rng = np.random.default_rng(seed)
        source, target = (rng.normal(size=(50, 8)).astype(np.float32) for _ in range(2))
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (source, target)]
        return fit_bridge("ridge", *unit, source_version=NEW, target_version=OLD)


@pytest.fixture
def upgrade(registry, root, register):
    return Upgrade(registry, root, register)


def test_a_go_is_of_the_edges_as_they_are_stored(upgrade):
    """The newest report decides, if there is one, and the gate tells how many there are."""
    gate = upgrade.gate()
    assert (gate.go, gate.result, gate.report, gate.reports) == (False, None, None, 0)
    upgrade.report(NO_GO)
    gate = upgrade.gate()
    assert (gate.go, gate.stale, gate.edges, gate.reports) == (False, (), frozenset(), 1)
    upgrade.report(GO)
    gate = upgrade.gate()
    assert (gate.go, gate.stale, gate.report.report, gate.reports) == (True, (), 2, 2)
    assert gate.edges == {(OLD, OLD), (NEW, NEW), (NEW, OLD), (OLD, NEW)}
    assert gate.result == GO
    upgrade.report(NO_GO)
    assert not upgrade.gate().go


@pytest.mark.parametrize("form", ["new", "older"])
@pytest.mark.parametrize("number", range(4))
def test_another_calibration_ends_a_go(upgrade, number, form):
    """Whichever edge is calibrated again: what the report realised was of the one before."""
    upgrade.report()
    if form == "older":
        upgrade.older()
    assert upgrade.gate().go
    edge = replace(upgrade.edges[number], report=1)
    upgrade.registry.save_edge(None, replace(edge, calibration=fitted(9)))
    assert f"the edge {edge.label} has another calibration" in upgrade.refused()
    upgrade.registry.save_edge(None, replace(edge, calibration=None))
    assert f"the edge {edge.label} is not calibrated any more" in upgrade.refused()
    upgrade.registry.save_edge(None, edge)
    assert upgrade.gate().go


def test_an_edge_between_both_carries_the_reports_number(upgrade):
    """One that was saved again is not the report's; a version's own edge belongs to all reports."""
    upgrade.report()
    own, cross = upgrade.edges[0], upgrade.edges[2]
    upgrade.registry.save_edge(None, own)
    assert upgrade.gate().go
    upgrade.registry.save_edge(None, cross)
    assert f"the edge {cross.label} was saved again since" in upgrade.refused()


@pytest.mark.parametrize("before", [True, False])
def test_another_bridge_ends_a_go(upgrade, before):
    """Also with the same calibration and number: a bridge put in, replaced or taken away."""
    if before:
        upgrade.edges[2] = replace(upgrade.edges[2], bridge=upgrade.bridge(1))
        del upgrade.edges[3]
    upgrade.report()
    assert upgrade.gate().go
    for bridge in (upgrade.bridge(2), None if before else upgrade.bridge(3)):
        changed = replace(upgrade.edges[2], bridge=bridge, report=1)
        upgrade.registry.save_edge(None, changed)
        assert "has another bridge" in upgrade.refused()


def test_a_bridged_upgrade_is_go_without_the_edge_back(upgrade):
    """It is not among the edges that the GO is of, in reports of either form."""
    upgrade.edges[2] = replace(upgrade.edges[2], bridge=upgrade.bridge(1))
    del upgrade.edges[3]
    upgrade.report()
    for form in ("new", "older"):
        if form == "older":
            upgrade.older()
        assert upgrade.gate().edges == {(OLD, OLD), (NEW, NEW), (NEW, OLD)}
    upgrade.registry.save_edge(probe=OLD, stored=NEW, calibration=fitted(3))
    assert (OLD, NEW) not in upgrade.gate().edges


def test_without_the_edge_new_to_old_there_is_no_go(upgrade):
    """Nothing could be searched by it, whatever the checks say."""
    upgrade.edges = upgrade.edges[:2]
    upgrade.report()
    assert "the edge faces/2 -> faces/1 is not stored" in upgrade.refused()


def test_a_report_without_its_file_is_no_go(upgrade):
    """Removed or changed on the disk, the database's copy of the gate proves nothing."""
    folder = upgrade.report()
    content = (folder / "report.json").read_text()
    (folder / "report.json").write_text(content.replace("within", "below"))
    assert "is not the file that was registered" in upgrade.refused()
    shutil.rmtree(folder)
    assert "no registered file" in upgrade.refused()
    folder.mkdir()
    (folder / "report.json").write_text(content)
    assert upgrade.gate().go


@pytest.mark.parametrize(
    ("forged", "said"),
    [
        (lambda _: {}, "is not the one in"),
        (lambda value: [value], "is no report"),
        (lambda value: {**value, "gate": NO_GO.to_json()}, "is not the one in"),
        (lambda value: {**value, "versions": None}, "does not say what it is of"),
        (
            lambda value: {**value, "versions": {name: {} for name in value["versions"]}},
            "does not say what it is of",
        ),
        (lambda value: {**value, "calibrations": [{}]}, "are damaged"),
        (
            lambda value: {**value, "edges": [{**value["edges"][0], "probe": "faces/7"}]},
            "the edge faces/7 -> faces/1 is not stored",
        ),
        (lambda value: {**value, "calibrations": []}, "is not stored"),
    ],
)
def test_a_report_that_is_none_is_no_go(upgrade, forged, said):
    """A file with a hash that fits and something else in it, however it came there."""
    upgrade.report()
    upgrade.forge(forged(upgrade.value(GO)))
    assert said in upgrade.refused()


def test_a_report_of_other_models_is_no_go(upgrade):
    """Other ids, or the same ids with other weights."""
    upgrade.report()
    value = upgrade.value(GO)
    versions = value["versions"]
    swapped = {**versions, "old": versions["new"], "new": versions["old"]}
    upgrade.forge({**value, "versions": swapped})
    assert "is of faces/1 against faces/2" in upgrade.refused()
    upgrade.forge(
        {**value, "versions": {**versions, "old": {**versions["old"], "fingerprint": ""}}}
    )
    assert "faces/1 is another model than was measured" in upgrade.refused()


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({**NO_GO.to_json(), "go": True}, "contradicts its checks"),
        ({"go": True}, "format"),
        ({**GO.to_json(), "go": "false"}, "damaged"),
        ("GO", "no gate's result"),
    ],
)
def test_a_verdict_that_its_checks_do_not_bear_is_no_go(upgrade, gate, said):
    """In the database and in the file alike; nothing is read from it that cannot be read."""
    upgrade.report()
    upgrade.forge({**upgrade.value(GO), "gate": gate}, gate)
    assert said in upgrade.refused()
    with pytest.raises(SegueError, match=said):
        upgrade.registry.report(OLD, NEW).verdict()


def test_only_a_report_of_these_versions_and_this_gate_is_kept(upgrade, tmp_path):
    """The writer reads what it keeps: its gate, its versions, and where it lies."""
    value = upgrade.value(GO)
    versions = value["versions"]

    def keep(written, gate=GO):
        return upgrade.registry.save_report(OLD, NEW, upgrade.folder(written), gate)

    with pytest.raises(UsageError, match="another gate"):
        keep(value, NO_GO)
    with pytest.raises(UsageError, match="another gate"):
        keep({})
    with pytest.raises(EvaluationError, match="contradicts"):
        keep(value, replace(NO_GO, go=True))
    with pytest.raises(RegistryError, match="is no report"):
        keep([])
    with pytest.raises(UsageError, match="does not say that it is of faces/2 against faces/1"):
        keep({key: value[key] for key in ("gate", "calibrations")})
    for side in ("old", "new"):
        for wrong in ({"version": "faces/9"}, {"fingerprint": "0"}):
            other = {**versions, side: {**versions[side], **wrong}}
            with pytest.raises(UsageError, match="does not say that it is of"):
                keep({**value, "versions": other})
    folder = upgrade.folder(value)
    (folder / "report.json").write_text("{")
    with pytest.raises(RegistryError, match="is no JSON"):
        upgrade.registry.save_report(OLD, NEW, folder, GO)
    (folder / "report.json").unlink()
    with pytest.raises(MissingPathError):
        upgrade.registry.save_report(OLD, NEW, folder, GO)
    (tmp_path / "report.json").write_text(json.dumps(value))
    with pytest.raises(UsageError, match="outside"):
        upgrade.registry.save_report(OLD, NEW, tmp_path, GO)
    assert upgrade.registry.reports() == []
    keep(value)
    keep({**value, "more": 1}, GO)
    assert [report.verdict() for report in upgrade.registry.reports()] == [GO, GO]
    assert [x.details["go"] for x in upgrade.registry.ledger(f"{NEW} -> {OLD}")] == [True, True]
