from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from cli_world import state

from segue import Workspace
from segue.images import read_faces
from segue.workspace import bridging
from segue.workspace.measuring import embed_faces

ENDS = ("--old", "faces/1", "--new", "faces/2")


@pytest.fixture
def workspace(made, tmp_path):
    return shutil.copytree(made, tmp_path / "w")


def test_a_bridge_by_commands_from_training_to_a_search(segue, workspace, faces, tmp_path):
    """Train the bridge, calibrate its edge, search v1's gallery by v2's vectors with a FAR."""

    def run(*arguments, code=0):
        done = segue("-w", workspace, *arguments)
        assert done.code == code, done
        return done

    fit = ("train", "bridge", *ENDS, "--data", faces, "--kind", "ridge")
    made = json.loads(run(*fit, "--json").out)
    assert (made["probe"], made["stored"], made["kind"]) == ("faces/2", "faces/1", "ridge")
    assert made["settings"]["part"] == "validation"
    assert "people_marks" not in made["settings"]
    told = run(*fit).out  # the same again, not calibrated yet
    assert "held-out distance" in told
    assert f"bridge {made['bridge']} (ridge), faces/2 -> faces/1" in told
    assert "segue calibrate faces/2 --stored faces/1" in told
    assert "edge faces/2 -> faces/1: not calibrated\n" in run("models", "show", "faces/2").out
    run("calibrate", "faces/2", "--stored", "faces/1", "--data", faces)
    shown = run("models", "show", "faces/2").out
    assert "edge faces/2 -> faces/1: calibrated down to FAR " in shown
    refused = run(*fit, code=2)
    assert refused.err.count("\n") == 1
    assert "pass --replace" in refused.err
    everyone = read_faces(faces)
    chosen = [f.path.name in {"drawn0001_0001.png", "drawn0005_0001.png"} for f in everyone.faces]
    opened = Workspace.open(workspace)
    vectors = embed_faces(opened, "faces/2", everyone)["embedding"][np.array(chosen)]
    opened.database.close()
    np.save(tmp_path / "probe.npy", vectors)
    found = json.loads(
        run("search", "people", "--vector", tmp_path / "probe.npy", "--version", "faces/2", "-k",
            8, "--json").out
    )  # fmt: skip
    assert [len(row["hits"]) for row in found] == [8, 8]
    assert all(0 < hit["far"] <= 1 and hit["version"] == "faces/1" for hit in found[0]["hits"])
    edges = json.loads(run("models", "show", "faces/2", "--json").out)["edges"]
    assert [(e["probe"], e["stored"]) for e in edges] == [("faces/2", "faces/1")]
    assert json.loads(run("train", "bridge", *ENDS, "--data", faces, "--direction", "old-to-new",
                          "--kind", "procrustes", "--json").out)["stored"] == "faces/2"  # fmt: skip
    assert run("doctor").out == "nothing wrong\n"


def test_what_comes_next_names_the_file_of_vectors(segue, workspace, faces, tmp_path):
    """A version without a model: the command that is told next can be typed as it stands."""
    everyone = read_faces(faces)
    opened = Workspace.open(workspace)
    vectors = embed_faces(opened, "faces/1", everyone)["embedding"]
    opened.database.close()
    paths = [face.path.relative_to(everyone.root).as_posix() for face in everyone.faces]
    file = tmp_path / "old.npz"
    np.savez(file, paths=np.array(paths), vectors=vectors)
    dimension = vectors.shape[1]
    assert not segue("-w", workspace, "models", "register", "gone", "--vectors", dimension).code
    fit = ("train", "bridge", "--old", "gone/1", "--new", "faces/2", "--kind", "procrustes")
    told = segue("-w", workspace, *fit, "--data", faces, "--old-vectors", file).out
    command = re.search(r"next: `segue (calibrate [^`]*)`", told)[1]
    assert command.endswith(f"--data {faces} --old-vectors {file}")
    done = segue("-w", workspace, *command.split())
    assert done.code == 0
    assert "calibrated faces/2 -> gone/1" in done.out
    wrong = segue("-w", workspace, "calibrate", "faces/2", "--from-gallery", "people",
                  "--old-vectors", file)  # fmt: skip
    assert wrong.code == 2
    assert "--old-vectors belong to --data" in wrong.err


def test_a_map_that_learned_nothing_is_warned_of(segue, workspace, faces, monkeypatch):
    """Only where held-out people are mapped no nearer to their own vectors than to others'."""
    fit = ("-w", workspace, "train", "bridge", *ENDS, "--data", faces, "--kind", "ridge")
    train_bridge = bridging.train_bridge

    def found(*arguments, times, **named):
        made = train_bridge(*arguments, **named)
        return replace(made, unrelated=times * made.table[0]["distance"])

    monkeypatch.setattr(bridging, "train_bridge", partial(found, times=2))
    assert segue(*fit).err == ""
    monkeypatch.setattr(bridging, "train_bridge", partial(found, times=1))
    run = segue(*fit, "--json")
    assert run.err.startswith("segue: the map has learned nothing")
    assert json.loads(run.out)["kind"] == "ridge"


def test_a_bridge_whose_file_is_gone_is_found_by_the_doctor_and_made_again(segue, workspace, faces):
    """The doctor names it and a command, other edges are shown as ever, and the command helps."""
    fit = ("train", "bridge", *ENDS, "--data", faces, "--kind", "ridge")
    assert segue("-w", workspace, *fit).code == 0
    calibrated = segue("-w", workspace, "calibrate", "faces/1", "--data", faces)
    assert calibrated.code == 0, calibrated
    (path,) = (workspace / "bridges").iterdir()
    path.unlink()
    told = segue("-w", workspace, "doctor")
    assert told.code == 1
    assert told.out.count("\n") == 1
    assert "bridge 1, faces/2 -> faces/1 (used by edge faces/2 -> faces/1): its file" in told.out
    again = "segue train bridge --old faces/1 --new faces/2 --replace"
    assert again in told.out
    shown = segue("-w", workspace, "models", "show", "faces/1")
    assert shown.code == 0, shown
    lines = [line for line in shown.out.splitlines() if line.startswith("edge ")]
    assert [line.split(":")[0] for line in lines] == [
        "edge faces/1 -> faces/1",
        "edge faces/2 -> faces/1",
    ]
    assert [("cannot be used: bridge 1 is damaged" in line) for line in lines] == [False, True]
    edges = json.loads(segue("-w", workspace, "models", "show", "faces/1", "--json").out)["edges"]
    assert [(edge["bridge"], edge["damage"] is None) for edge in edges] == [
        (None, True),
        (1, False),
    ]
    assert segue("-w", workspace, *fit, "--replace").code == 0
    assert path.is_file()
    assert segue("-w", workspace, "doctor").out == "nothing wrong\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "affine"), "best, low_rank, mlp, procrustes, ridge"),
        (("--direction", "both"), "new-to-old, old-to-new"),
        (("--part", "train"), "calibration, validation"),
        (("--old", "faces/2"), "two versions"),
        (("--new", "faces/9"), "unknown version"),
        (("--data", "/no/such/folder"), "no folder of faces"),
        (("--old-vectors", "/no/file.npz"), "no"),
    ],
)
def test_a_wrong_call_says_one_sentence_and_changes_nothing(
    segue, workspace, faces, arguments, message
):
    """Each mistake has exit code 2 and one sentence, and the workspace stays as it was."""
    before = state(workspace)
    done = segue("-w", workspace, "train", "bridge", *ENDS, "--data", faces, *arguments)
    assert done.code == 2, done
    assert message in done.err
    assert done.err.count("\n") == 1
    assert state(workspace) == before
