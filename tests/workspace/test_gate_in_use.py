"""What a gate's verdict is worth later: edges that changed, reports that are gone, models apart."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from network_world import register_all
from parts_world import half_of_train_tested, one_less_to_calibrate, with_parts

from segue import Workspace, cli
from segue.errors import GateError, StaleEdgeError, StalePlanError, UnmeasuredEdgeError, UsageError
from segue.evaluation import compatibility as measuring
from segue.evaluation import gate as judging
from segue.evaluation.gate import Check, GateResult
from segue.networks import build_network
from segue.synthetic import write_faces

OLD, NEW = "faces/1", "faces/2"
GO = GateResult(True, (Check("tax", True, 0.0, 0.02, "the tax is within its budget"),))


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """People of all parts: half of those to train on are part test."""
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder / "drawn", people=48, images=4, size=32, seed=6)
    return with_parts(folder / "drawn", folder / "tested", half_of_train_tested)


@pytest.fixture
def fewer(faces, tmp_path) -> Path:
    """The same faces with one person less to calibrate on."""
    return with_parts(faces, tmp_path / "fewer", one_less_to_calibrate)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two networks that have nothing in common, in a workspace that tests copy."""
    workspace = Workspace.init(tmp_path_factory.mktemp("apart") / "w")
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = build_network("small", {"width": 2, "dimension": 6})
        register_all(workspace, network)
    workspace.database.close()
    return workspace.root


@pytest.fixture
def workspace(made, tmp_path) -> Workspace:
    return Workspace.open(shutil.copytree(made, tmp_path / "w"))


@pytest.fixture
def bridged(workspace, faces, monkeypatch) -> Workspace:
    """An upgrade through a bridge whose gate says GO."""
    monkeypatch.setattr(judging, "evaluate_gate", lambda _: GO)
    workspace.train_bridge(faces, old=OLD, new=NEW, kind="ridge")
    _measure(workspace, faces)
    return workspace


def _measure(workspace, faces):
    return workspace.evaluate_compatibility(OLD, NEW, faces, part="test", bootstrap=10)


def _enrolled(workspace, faces, people):
    gallery = workspace.create_gallery("staff", OLD)
    for person in people:
        workspace.enroll("staff", faces / "images" / person, identity=person)
    return gallery


def _check_found(workspace, faces, people):
    images = [path for person in people for path in sorted((faces / "images" / person).iterdir())]
    found = workspace.search("staff", images, k=1)
    assert [hits[0].item_id for hits in found] == [image.name for image in images]


def _gate(workspace, capsys, *options):
    """What `segue gate` does: its exit code, output and errors."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main(["-w", str(workspace.root), "gate", "--old", OLD, "--new", NEW, *options])
    told = capsys.readouterr()
    return int(caught.value.code or 0), told.out, told.err


@pytest.mark.parametrize("measured", ["never", "NO-GO", "by an earlier release"])
def test_measuring_models_apart_loses_nobody_in_a_revert(workspace, faces, measured):
    """Blue-green, cut over, one person more, and back: everybody is found, measured or not."""
    if measured != "never":
        result = _measure(workspace, faces)
        assert not result.gate.go
        assert result.left_out == (f"{NEW} -> {OLD}", f"{OLD} -> {NEW}")
        assert {edge.label for edge in workspace.registry.edges()} == {
            f"{OLD} -> {OLD}",
            f"{NEW} -> {NEW}",
        }
    if measured == "by an earlier release":  # which stored all four
        for (probe, stored), calibration in result.report.calibrations.items():
            ends = [{"v1": OLD, "v2": NEW}.get(role) for role in (probe, stored)]
            if None not in ends and ends[0] != ends[1]:
                workspace.registry.save_edge(
                    probe=ends[0], stored=ends[1], calibration=calibration, report=result.number
                )
    people = ["drawn0001", "drawn0005", "drawn0009"]
    gallery = _enrolled(workspace, faces, people)
    plan = workspace.plan("staff", NEW)
    assert plan.strategy == "blue-green"
    migration = workspace.start(plan)
    migration.run()
    migration.verify()
    migration.cutover()
    assert gallery.companions == (OLD,)
    assert gallery.preference == (NEW,)
    workspace.enroll("staff", faces / "images" / "drawn0013")
    migration.revert()
    assert gallery.serving == OLD
    _check_found(workspace, faces, [*people, "drawn0013"])


def test_an_edge_of_models_apart_cannot_be_forced(workspace, faces):
    """Measuring them gives no edge to search by, so that no reason starts them mixed."""
    _enrolled(workspace, faces, ["drawn0001"])
    _measure(workspace, faces)
    with pytest.raises(UnmeasuredEdgeError):
        workspace.registry.edge(NEW, OLD)
    with pytest.raises(GateError, match="where training or a bridge joins the two"):
        workspace.start(workspace.plan("staff", NEW, strategy="mixed"), force="a test")


def test_a_go_ends_with_the_bridge_that_it_was_of(bridged, faces, capsys):
    """Another bridge, calibrated too, is NO-GO for gate, plan and start until it is measured."""
    _enrolled(bridged, faces, ["drawn0001"])
    gate = bridged.registry.gate_of(OLD, NEW)
    assert (gate.go, gate.edges) == (True, {(OLD, OLD), (NEW, NEW), (NEW, OLD)})
    code, out, _ = _gate(bridged, capsys, "--json")
    told = json.loads(out)
    assert (code, told["go"], told["number"], told["reports"]) == (0, True, 1, 1)
    plan = bridged.plan("staff", NEW)
    assert (plan.strategy, plan.report) == ("mixed", 1)
    bridged.train_bridge(faces, old=OLD, new=NEW, kind="procrustes", replace=True)
    assert "has another bridge" in bridged.registry.gate_of(OLD, NEW).stale[0]
    bridged.calibrate(NEW, faces, stored=OLD)
    code, out, err = _gate(bridged, capsys)
    assert code == 5
    assert out.startswith("NO-GO\n")
    assert "Measure again: `segue evaluate compatibility --old faces/1 --new faces/2" in err
    assert bridged.plan("staff", NEW).strategy == "blue-green"
    with pytest.raises(StalePlanError, match="the gate was GO, now it is NO-GO"):
        bridged.start(plan)
    _measure(bridged, faces)
    code, out, _ = _gate(bridged, capsys)
    assert code == 0
    assert "the newest of 2 of these versions" in out
    assert bridged.start(bridged.plan("staff", NEW)).state == "running"


@pytest.mark.parametrize("command", ["calibrate", "matrix"])
def test_a_go_ends_with_the_calibration_that_it_was_of(bridged, faces, fewer, command):
    """What the report realised at a FAR was realised with another map to it."""
    before = bridged.registry.edge(NEW, OLD)
    assert before.report == 1
    if command == "calibrate":
        bridged.calibrate(NEW, fewer, stored=OLD)
    else:
        bridged.evaluate_matrix([OLD, NEW], fewer, part="test", bootstrap=10, save_edges=True)
    after = bridged.registry.edge(NEW, OLD)
    assert after.calibration.people == before.calibration.people - 1
    assert (after.report, after.measured["people"]) == (None, after.calibration.people)
    assert after.measured["bridge"] == before.measured["bridge"]
    assert not bridged.registry.gate_of(OLD, NEW).go
    _measure(bridged, faces)
    again = bridged.registry.edge(NEW, OLD)
    assert (again.report, again.measured["people"]) == (2, again.calibration.people)
    assert bridged.registry.gate_of(OLD, NEW).go


def test_a_report_that_is_gone_is_told_by_gate_and_doctor(bridged, capsys):
    """The gate fails closed, as JSON and for people; the doctor names the report."""
    assert bridged.doctor() == []
    shutil.rmtree(bridged.registry.report(OLD, NEW).path)
    code, out, err = _gate(bridged, capsys, "--json")
    told = json.loads(out)
    assert (code, told["go"]) == (5, False)
    assert [check["name"] for check in told["checks"]] == ["as measured"]
    assert "no registered file" in err
    (problem,) = bridged.doctor()
    assert problem.startswith("report 1, faces/2 against faces/1: its file")


def test_a_report_says_what_it_is_of(bridged):
    """Versions and faces by fingerprint, and each edge with its bridge; nobody's name."""
    stored = bridged.registry.report(OLD, NEW)
    value = stored.read()
    prints = {v.version: v.fingerprint for v in bridged.registry.list()}
    named = {"old": OLD, "new": NEW, "twin": NEW}
    assert value["versions"] == {
        side: {"version": version, "fingerprint": prints[version]}
        for side, version in named.items()
    }
    assert len({*value["data"].values()}) == 2
    assert {(e["probe"], e["stored"], e["bridge"] is None) for e in value["edges"]} == {
        (OLD, OLD, True),
        (NEW, NEW, True),
        (NEW, OLD, False),
    }
    assert "drawn0" not in (stored.path / "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("when", ["while measuring", "while logging"])
@pytest.mark.parametrize("pair", [(OLD, OLD), (NEW, OLD)])
def test_an_edge_saved_while_an_upgrade_is_measured_is_kept(
    bridged, faces, monkeypatch, when, pair
):
    """Whoever saved it wins; of the report nothing is left, no run either."""
    folders = sorted((bridged.root / "reports").iterdir())
    known = bridged.registry.edge(*pair)
    logged = []

    def meanwhile():
        bridged.registry.save_edge(None, replace(known, measured={"saved": "meanwhile"}))

    measure, log = measuring.measure_compatibility, bridged.registry.tracking.compatibility_run

    def measured(*args, **more):
        if when == "while measuring":
            meanwhile()
        return measure(*args, **more)

    @contextmanager
    def run(*args, **more):
        with log(*args, **more) as parent:
            logged.append(parent)
            if when == "while logging":
                meanwhile()
            yield parent

    monkeypatch.setattr(measuring, "measure_compatibility", measured)
    monkeypatch.setattr(bridged.registry.tracking, "compatibility_run", run)
    with pytest.raises(StaleEdgeError, match=f"{pair[0]} -> {pair[1]}"):
        _measure(bridged, faces)
    assert bridged.registry.edge(*pair).measured == {"saved": "meanwhile"}
    assert [report.report for report in bridged.registry.reports()] == [1]
    assert sorted((bridged.root / "reports").iterdir()) == folders
    assert len(logged) == (when == "while logging")
    client = bridged.registry.tracking.connect()
    assert all(client.get_run(run).info.lifecycle_stage == "deleted" for run in logged)


def test_an_edge_tells_of_the_calibration_that_it_has(workspace, faces):
    """A report's calibration takes the place of a gallery's, and of all that was told of that."""
    _enrolled(workspace, faces, ["drawn0001", "drawn0005", "drawn0009"])
    workspace.calibrate_from_gallery("staff")
    assert workspace.registry.edge(OLD, OLD).measured["calibrated_on"] == "gallery staff"
    _measure(workspace, faces)
    edge = workspace.registry.edge(OLD, OLD)
    assert edge.measured.keys() == {
        "val", "rank1", "auc", "calibrated_on", "impostors", "people", "smallest_far", "unseen"
    }  # fmt: skip
    assert edge.measured["calibrated_on"] == "part calibration"
    assert edge.measured["people"] == edge.calibration.people
    assert edge.measured["smallest_far"] == edge.calibration.smallest_far
    with pytest.raises(UsageError, match="kept for it"):
        workspace.calibrate_from_gallery("staff")
