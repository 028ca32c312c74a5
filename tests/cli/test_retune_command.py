from __future__ import annotations

import json
import shutil

import pytest


@pytest.fixture
def workspace(made, tmp_path):
    return shutil.copytree(made, tmp_path / "w")


def test_retuning_by_commands_from_training_to_a_search(segue, workspace, faces):
    """Retune, map the gallery's vectors without images, cut over, and search it."""

    def run(*arguments, code=0):
        done = segue("-w", workspace, *arguments)
        assert done.code == code, done
        return done

    fit = ("train", "retune", "--old", "faces/1", "--data", faces)
    told = run(*fit).out
    assert "faces/1~b1 (retuned faces/1): fitted on" in told
    assert "on validation people" in told
    assert "segue migrate start GALLERY --to faces/1~b1 --batch 20000" in told
    value = json.loads(run(*fit, "--json").out)
    assert (value["version"], value["old"]) == ("faces/1~b1", "faces/1")
    assert value["measured"].keys() == {"old", "retuned"}
    shown = json.loads(run("models", "show", "faces/1~b1", "--json").out)
    assert shown["details"]["source"] == "faces/1"
    assert "faces/1~b1" in run("models", "list").out
    refused = run("train", "retune", "--old", "faces/1~b1", "--data", faces, code=2)
    assert refused.err.count("\n") == 1
    assert "retune faces/1 anew" in refused.err
    for command in ("start", "run", "verify", "cutover"):
        run("migrate", command, "people", *(("--to", "faces/1~b1") if command == "start" else ()))
    image = faces / "images" / "drawn0001" / "drawn0001_0001.png"
    (found,) = json.loads(run("search", "people", image, "-k", 1, "--json").out)
    assert found["hits"][0]["item_id"] == "drawn0001_0001.png"
    assert found["hits"][0]["version"] == "faces/1~b1"
    run("migrate", "complete", "people", "--yes")
    backup = workspace.parent / "backup"
    run("backup", backup)
    again = workspace.parent / "again"
    assert segue("-w", again, "init").code == 0
    assert segue("-w", again, "restore", backup, "--yes").code == 0
    assert segue("-w", again, "doctor").out == "nothing wrong\n"
    assert "faces/1~b1" in segue("-w", again, "models", "list").out
    assert run("doctor").out == "nothing wrong\n"
