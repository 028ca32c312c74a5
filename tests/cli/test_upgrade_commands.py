from __future__ import annotations

import json
import shutil

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from segue import Workspace


@pytest.fixture
def workspace(made, tmp_path):
    return shutil.copytree(made, tmp_path / "w")


@pytest.fixture
def run(segue, workspace):
    """Run a command that must succeed; with --json, return what it printed."""

    def call(*arguments, code=0):
        done = segue("-w", workspace, *arguments)
        assert done.code == code, done
        assert "Traceback" not in done.err
        return json.loads(done.out) if "--json" in arguments else done.out

    return call


def test_the_upgrade_by_commands_mixed(run, faces, tmp_path):
    """Train harmonic, evaluate, gate, plan, start, run, verify, complete: each by its command."""
    settings = ("--head-steps", 2, "--steps", 2, "--threads", 1)
    made = run(
        "train", "harmonic", "--data", faces, "--old", "faces/1", "--from", "faces/2", *settings,
        "--json",
    )  # fmt: skip
    assert [m["version"] for m in made] == ["faces/3", "faces-twin/1"]
    edge = ("--old", "faces/1", "--new", "faces/3")
    report = run(
        "evaluate", "compatibility", *edge, "--data", faces, "--bootstrap", 40, "--json"
    )  # fmt: skip
    assert report["gate"]["go"] is False
    asked = ["faces/3", "faces/2", "faces/1", "faces-twin/1"]
    assert report["unseen"] == {
        "not_in_training_of": asked, "partly_known": [], "not_known": [],
    }  # fmt: skip
    assert run("gate", *edge, "--json", code=5)["go"] is False
    shown = run("models", "show", "faces/3", "--json")
    assert {(e["probe"], e["stored"]) for e in shown["edges"]} == {
        ("faces/3", "faces/1"),
        ("faces/1", "faces/3"),
        ("faces/3", "faces/3"),
    }
    plan = tmp_path / "plan.json"
    value = run(
        "migrate", "plan", "people", "--to", "faces/3", "--strategy", "mixed", "--out", plan,
        "--json",
    )  # fmt: skip
    assert value["to_migrate"] == value["items"] == 8
    run("migrate", "start", "people", "--plan", plan, "--force", "a test of the commands")
    assert any(e["reason"] == "a test of the commands" for e in run("models", "ledger", "--json"))
    probe = min((faces / "images" / "drawn0001").iterdir())
    assert {h["version"] for h in run("search", "people", probe, "--json")[0]["hits"]} == {
        "faces/1"
    }
    result = run("migrate", "run", "people", "--limit", 3, "--json")
    assert (result["migrated"], result["left"], result["state"]) == (3, 5, "running")
    run("migrate", "pause", "people")
    assert run("migrate", "status", "people", "--json")["state"] == "paused"
    run("migrate", "resume", "people")
    run("migrate", "throttle", "people", 10_000)
    hits = run("search", "people", probe, "-k", 8, "--inline-ms", 5000, "--json")[0]["hits"]
    assert {h["version"] for h in hits} == {"faces/1", "faces/3"}
    assert run("migrate", "status", "people", "--json")["left"] < 5
    assert run("migrate", "run", "people", "--json")["state"] == "caught_up"
    assert run("migrate", "verify", "people", "--json")["left"] == 0
    run("migrate", "complete", "people", "--yes")
    assert run("migrate", "status", "people", "--json")["state"] == "completed"
    stats = run("gallery", "stats", "people", "--json")
    assert [(r["version"], r["rows"]) for r in stats["rows"]] == [("faces/3", 8)]
    events = [e["name"] for e in run("migrate", "history", "people", "--json")]
    assert events[:2] == ["plan", "start"]
    assert {"pause", "resume", "throttle", "catch_up", "verify"} <= set(events)
    assert "problems" in run("doctor", "--json")


def test_commands_say_what_is_known_of_the_people(run, segue, workspace, faces, tmp_path):
    """Who was trained on is refused with exit code 2; of a model without marks it is told."""
    told = run("calibrate", "faces/1", "--data", faces)
    assert "None of these people, by name, was in the training of faces/1" in told
    (tmp_path / "images").symlink_to(faces / "images")
    listed = (faces / "people.csv").read_text(encoding="utf-8")
    (tmp_path / "people.csv").write_text(listed.replace(",train,", ",test,"))
    done = segue("-w", workspace, "calibrate", "faces/2", "--data", tmp_path, "--part", "test")
    assert (done.code, done.out) == (2, "")
    assert "faces/2 was trained on" in done.err
    assert "calibrate it on others (--part, or other --data)" in done.err
    registry = Workspace.open(workspace).registry
    version = registry.resolve("faces/1")
    registry.register_network(
        "foreign",
        architecture=version.details["architecture"],
        settings=version.details["settings"],
        weights=(workspace / "models" / version.slug / "weights.safetensors").read_bytes(),
        preprocessing=version.preprocessing,
    )
    told = run("evaluate", "matrix", "faces/1", "foreign/1", "--data", faces, "--bootstrap", 10)
    assert "None of these people, by name, was in the training of faces/1" in told
    assert "Not known: whether any was in the training of foreign/1" in told
    told = run("train", "bridge", "--data", faces, "--old", "foreign/1", "--new", "faces/2")
    assert "Not known: whether any was in the training of foreign/1" in told
    assert "people_marks" not in json.dumps(run("models", "show", "faces/2", "--json"))


def test_the_upgrade_by_commands_blue_green_and_back(run):
    """Without an edge v1 serves until the cut-over; abort and revert each go back."""
    run("migrate", "start", "people", "--to", "faces/2")
    run("migrate", "run", "people")
    run("migrate", "abort", "people", "--yes")
    run("migrate", "start", "people", "--to", "faces/2")
    run("migrate", "run", "people")
    run("migrate", "verify", "people")
    assert run("gallery", "list", "--json")[0]["serving"] == "faces/1"
    run("migrate", "cutover", "people")
    assert run("gallery", "list", "--json")[0]["serving"] == "faces/2"
    run("migrate", "revert", "people", "--yes")
    assert run("gallery", "list", "--json")[0]["serving"] == "faces/1"
    assert run("doctor") == "nothing wrong\n"


def test_a_failing_item_is_quarantined_findable_and_makes_the_exit_code_1(
    run, segue, workspace, tmp_path, faces
):
    """A damaged source stays on its old version with its reason; --retry takes it up again."""
    copy = shutil.copytree(faces / "images" / "drawn0009", tmp_path / "copy")
    run("gallery", "enroll", "people", copy)
    broken = min(copy.iterdir())
    content = broken.read_bytes()
    broken.write_bytes(content[:100])
    run("migrate", "start", "people", "--to", "faces/2")
    assert run("migrate", "run", "people", "--json", code=1)["failed"] == 1
    assert sum(run("migrate", "status", "people", "--json")["quarantined"].values()) == 1
    assert run("gallery", "stats", "people", "--json")["items"] == 12
    assert segue("-w", workspace, "migrate", "run", "people").code == 1
    broken.write_bytes(content)
    assert run("migrate", "run", "people", "--retry", "--json")["left"] == 0


def test_the_files_of_a_gallery_are_plain_parquet(run):
    """Any reader opens the files and finds one row for each item, version and output."""
    run("migrate", "start", "people", "--to", "faces/2")
    run("migrate", "run", "people", "--limit", 5)
    files = run("gallery", "files", "people", "--json")
    by_duckdb = duckdb.sql(
        f"select version, output, count(*), count(distinct item_id) from read_parquet({files}) "
        "group by all order by all"
    ).fetchall()
    assert by_duckdb == [("faces/1", "embedding", 8, 8), ("faces/2", "embedding", 5, 5)]
    tables = [pq.read_table(file) for file in files]
    keys = [
        (row["item_id"], row["version"], row["output"]) for t in tables for row in t.to_pylist()
    ]
    assert len(keys) == len(set(keys)) == 13
    vectors = np.array(tables[0]["vector"].to_pylist())
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_vectors_go_out_and_in(run, tmp_path, workspace, segue):
    """What is exported can be imported into another gallery, as Parquet and as .npy with ids."""
    run("gallery", "export", "people", tmp_path / "out.parquet")
    run("gallery", "create", "again", "--version", "faces/1")
    run("gallery", "import", "again", tmp_path / "out.parquet")
    np.save(tmp_path / "v.npy", 3 * np.eye(2, 64, dtype=np.float32))
    (tmp_path / "ids.txt").write_text("a\nb\n")
    run(
        "gallery",
        "import",
        "again",
        tmp_path / "v.npy",
        "--ids",
        tmp_path / "ids.txt",
        "--normalise",
    )
    assert run("gallery", "stats", "again", "--json")["items"] == 10
    refused = segue("-w", workspace, "search", "again", "--vector", tmp_path / "v.npy")
    assert refused.code == 1
    assert "unit length" in refused.err
    np.save(tmp_path / "v.npy", np.eye(2, 64, dtype=np.float32))
    hits = run("search", "again", "--vector", tmp_path / "v.npy", "-k", 1, "--json")
    assert [h["hits"][0]["item_id"] for h in hits] == ["a", "b"]
    rows = run("gallery", "sql", "again", "select count(*) as n from live", "--json")
    assert rows == [{"n": 10}]
    run("gallery", "erase", "again", "a", "b", "--yes")
    run("gallery", "compact", "again")
    assert run("gallery", "stats", "again", "--json")["items"] == 8


def test_a_backup_makes_a_workspace_where_there_is_none(run, segue, tmp_path):
    """A lost machine is set up from the backup alone; the ledger says that it was restored."""
    run("backup", tmp_path / "kept")
    place = tmp_path / "new" / "place"
    assert segue("-w", place, "restore", tmp_path / "kept").code == 0
    done = segue("-w", place, "gallery", "list", "--json")
    assert [row["items"] for row in json.loads(done.out)] == [8]
    entries = json.loads(segue("-w", place, "models", "ledger", "--json").out)
    assert entries[-1]["action"] == "restore"
    assert segue("-w", place, "doctor").code == 0


def test_a_threshold_below_what_was_measured_is_refused_unless_allowed(segue, workspace, faces):
    """Few calibration people support no small FAR: calibrating says so, and searching refuses."""
    few = segue("-w", workspace, "calibrate", "faces/1", "--data", faces)
    assert few.code == 0
    assert "rests on extrapolation" in few.err
    one, other = sorted((faces / "images" / "drawn0001").iterdir())[:2]
    search, verify = ("search", "people", one), ("gallery", "verify", "people", one, other)
    for command in (search, verify):
        for stated in (("--far", "1e-6"), ("--false-hits", "1e-5")):
            refused = segue("-w", workspace, *command, *stated)
            assert (refused.code, refused.out) == (2, ""), refused
            assert refused.err.count("\n") == 1
            assert "on the edge faces/1 -> faces/1" in refused.err
            assert "--extrapolate" in refused.err
            found = segue("-w", workspace, *command, *stated, "--extrapolate")
            assert found.code == 0, found
            assert "is extrapolated" in found.err
        within = segue("-w", workspace, *command, "--distance", 0.001)
        assert within.code == 0
        assert "squared distance 0.001 of faces/1" in within.err
        assert "is extrapolated" in within.err
        assert segue("-w", workspace, *command, "--far", 1).code == 0


def test_the_answer_says_what_a_distance_was_translated_into(segue, workspace, faces):
    """The FAR and the version whose calibration gave it: in the JSON and in a line for people."""
    assert segue("-w", workspace, "calibrate", "faces/1", "--data", faces).code == 0
    one, other = sorted((faces / "images" / "drawn0001").iterdir())[:2]
    search, verify = ("search", "people", one), ("gallery", "verify", "people", one, other)
    for command in (search, verify):
        stated = ("-w", workspace, *command, "--distance", 4)
        shown = segue(*stated).out
        assert "threshold: FAR " in shown
        assert "which squared distance 4 is by the calibration of faces/1" in shown
        value = json.loads(segue(*stated, "--json").out)
        told = (value[0] if command is search else value)["threshold"]
        assert (told["distance"], told["version"], told["extrapolated"]) == (4, "faces/1", False)
        assert told["smallest_far"] <= told["far"] <= 1
    assert json.loads(segue("-w", workspace, *search, "--json").out)[0]["threshold"] is None
    other_scale = segue("-w", workspace, *search, "--distance", 1.5, "--for-version", "faces/2")
    assert other_scale.code == 1
    assert "`segue calibrate faces/2`" in other_scale.err


def test_a_cosine_in_use_is_the_distance_of_it(run, segue, workspace, faces):
    """Squared distance 2 - 2 · cosine; what is no cosine, or states two, is a wrong call."""
    probe = min((faces / "images" / "drawn0001").iterdir())
    command = ("search", "people", probe, "--json")
    assert run(*command, "--cosine", 0.75) == run(*command, "--distance", 0.5)
    named = run(*command, "--cosine", 0.75, "--for-version", "faces/1")
    assert named == run(*command, "--cosine", 0.75)
    for wrong in (
        ("--cosine", 2),
        ("--distance", 5),
        ("--far", 0),
        ("--cosine", 0.5, "--far", 0.1),
        ("--for-version", "faces/1"),
        ("--extrapolate",),
    ):
        done = segue("-w", workspace, *command, *wrong)
        assert done.code == 2, done
        assert "Traceback" not in done.err
    assert "cosine 2 is out of range" in segue("-w", workspace, *command, "--cosine", 2).err


def test_every_kind_of_value_comes_out_of_a_query(run):
    """Times with a zone, lists, bytes and decimals are printed, as a table and as JSON."""
    query = (
        "select now() as t, [1, 2] as l, 'a'::blob as b, 1.5::decimal(4, 2) as d from live limit 1"
    )
    assert run("gallery", "sql", "people", query, "--json")[0]["l"] == [1, 2]
    assert "1.50" in run("gallery", "sql", "people", query)
