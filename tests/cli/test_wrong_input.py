from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
from cli_world import state

BROKEN = "broken/1.png"


@pytest.fixture
def workspace(made, tmp_path):
    return shutil.copytree(made, tmp_path / "w")


class _RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def _refused(run, code, message):
    assert run.code == code, run
    assert message in run.err, run.err
    assert run.err.count("\n") == 1, run.err
    assert run.err.startswith("segue: "), run.err
    assert "Traceback" not in run.err


def _unchanged(segue, workspace, code, message, *arguments):
    before = state(workspace)
    _refused(segue("-w", workspace, *arguments), code, message)
    assert state(workspace) == before


UPGRADE = ("--data", "{faces}", "--old", "faces/1", "--new", "faces/2")
SEEDED = [
    ("train", "base", "faces", "--data", "{faces}"),
    ("train", "harmonic", "--data", "{faces}", "--old", "faces/1", "--from", "faces/2"),
    ("train", "bridge", *UPGRADE),
    ("train", "retune", "--data", "{faces}", "--old", "faces/1"),
    ("evaluate", "compatibility", *UPGRADE),
    ("evaluate", "matrix", "faces/1", "faces/2", "--data", "{faces}"),
]
"""Every command that takes a seed."""


@pytest.mark.parametrize("command", SEEDED, ids=lambda command: " ".join(command[:2]))
def test_a_seed_that_is_none_is_refused_and_changes_nothing(segue, workspace, faces, command):
    """Negative ones by the command line, ones that no generator takes by the library."""
    filled = [argument.format(faces=faces) for argument in command]
    before = state(workspace)
    run = segue("-w", workspace, *filled, "--seed", -1)
    assert (run.code, "'--seed': -1 is not in the range x>=0" in run.err) == (2, True), run
    _refused(segue("-w", workspace, *filled, "--seed", 2**63), 2, "of at least 0 and below 2**63")
    assert state(workspace) == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("gallery", "enroll", "people", "/no/such/folder"), 2, "no folder of images"),
        (("train", "base", "faces", "--data", "/no/such/folder"), 2, "no folder of faces"),
        (("gallery", "create", "x", "--version", "faces/9"), 2, "unknown version 'faces/9'"),
        (("gallery", "create", "x", "--version", "faces@none"), 2, "unknown version"),
        (("gallery", "create", "people", "--version", "faces/1"), 2, "exists already"),
        (("gallery", "create", "../x", "--version", "faces/1"), 2, "is no gallery"),
        (("gallery", "stats", "nobody"), 2, "unknown gallery 'nobody'; there are: people"),
        (("gallery", "erase", "people", "nobody", "--yes"), 2, "no item 'nobody'"),
        (("gallery", "erase", "people", "drawn0001_0001.png"), 2, "pass --yes"),
        (("models", "promote", "faces/7", "--reason", "x"), 2, "unknown version"),
        (("models", "register", "faces", "--onnx", "/no/file.onnx"), 2, "no"),
        (("train", "base", "faces", "--data", "{faces}", "--architecture", "huge"), 2, "small"),
        (
            ("train", "base", "faces", "--data", "{faces}", "--image-size", "1000000"),
            2,
            "8 to 1024",
        ),
        (("train", "base", "../../x", "--data", "{faces}"), 2, "'../../x' is no model name"),
        (
            ("train", "harmonic", "--data", "{faces}", "--old", "faces/1", "--from", "faces/8"),
            2,
            "",
        ),
        (("gate", "--old", "faces/1", "--new", "faces/2"), 5, "was never measured"),
        (("gate", "--old", "faces/2", "--new", "faces/2"), 2, "are the same version, faces/2"),
        (
            (
                "evaluate",
                "compatibility",
                "--old",
                "faces/1",
                "--new",
                "faces/1",
                "--data",
                "{faces}",
            ),
            2,
            "are the same, faces/1",
        ),
        (("models", "ledger", "nonsense"), 2, "unknown version 'nonsense'"),
        (
            ("calibrate", "faces/1", "--data", "{faces}", "--part", "nopart"),
            2,
            "unknown part 'nopart'; known: calibration, test, train, validation",
        ),
        (("migrate", "status", "people"), 2, "no open migration"),
        (("migrate", "start", "people", "--to", "faces/2", "--strategy", "mixed"), 5, "NO-GO"),
        (("migrate", "start", "people", "--plan", "/no/plan.json"), 2, "no plan"),
        (("restore", "/no/backup", "--yes"), 2, "no backup"),
        (("calibrate", "faces/1", "--data", "/no/such"), 2, "no folder of faces"),
        (("search", "people", "/no/such.png"), 1, "the file is missing"),
    ],
)
def test_a_wrong_call_says_one_sentence_and_changes_nothing(
    segue, workspace, faces, arguments, code, message
):
    """Each mistake has its exit code and one sentence, and the workspace stays as it was."""
    filled = [str(a).format(faces=faces) for a in arguments]
    _unchanged(segue, workspace, code, message, *filled)


def test_without_a_workspace_the_way_to_make_one_is_told(segue, tmp_path):
    """A command outside a workspace names `segue init` and makes nothing."""
    _refused(segue("-w", tmp_path / "none", "models", "list"), 2, "segue init")
    assert not (tmp_path / "none").exists()


def test_too_few_people_to_calibrate_on_are_told_with_their_part(segue, workspace, faces, tmp_path):
    """The part that was looked at is named, and what else there is for a version with itself."""
    lines = ["person,part\n"]
    for place in range(3):
        person = f"stranger{place}"
        (tmp_path / "images" / person).mkdir(parents=True)
        image = min((faces / "images" / f"drawn000{place}").iterdir())
        shutil.copy(image, tmp_path / "images" / person)
        lines.append(f"{person},calibration\n")
    (tmp_path / "people.csv").write_text("".join(lines))
    command = ("calibrate", "faces/1", "--data", tmp_path)
    told = "impostor pairs of 3 people are too few"
    own, edge = (segue("-w", workspace, *command, *more) for more in ((), ("--stored", "faces/2")))
    _refused(own, 1, told)
    assert own.err.startswith(f"segue: part calibration of {tmp_path}: ")
    assert "--from-gallery GALLERY" in own.err
    _refused(edge, 1, told)
    assert "--from-gallery" not in edge.err


def test_an_alias_has_the_ledger_of_its_version(segue, workspace):
    """What is named by an alias is found by the id that the ledger knows."""
    named = segue("-w", workspace, "models", "ledger", "faces@serving", "--json")
    assert named.code == 0
    assert named.out == segue("-w", workspace, "models", "ledger", "faces/1", "--json").out
    assert "promote" in named.out


def test_what_the_system_refuses_is_one_sentence(segue, tmp_path):
    """A workspace that cannot be made is told with its path and the reason, without a traceback."""
    (tmp_path / "file").touch()
    run = segue("-w", tmp_path / "file" / "w", "init")
    _refused(run, 1, f"cannot use {tmp_path / 'file' / 'w'}: Not a directory")


@pytest.mark.parametrize("option", [("--version", "faces/2"), ("--output", "embedding")])
def test_a_search_by_images_takes_no_option_of_vectors(segue, workspace, faces, option):
    """They would have no effect: images are embedded by the version that the gallery serves."""
    image = faces / "images" / "drawn0001" / "drawn0001_0001.png"
    run = segue("-w", workspace, "search", "people", image, *option)
    assert run.code == 2
    assert f"{option[0]} goes with --vector" in run.err


def test_a_search_by_vectors_embeds_nothing_within_it(segue, workspace):
    """`--inline-ms` is of images; vectors come without them."""
    run = segue("-w", workspace, "search", "people", "--vector", "v.npy", "--inline-ms", 5)
    assert run.code == 2
    assert "--inline-ms goes with image files" in run.err


def test_a_second_init_is_refused(segue, workspace):
    """Making a workspace where one is does not touch it."""
    _unchanged(segue, workspace, 1, "is a workspace already", "init")


def test_training_on_one_person_is_refused(segue, workspace, faces, tmp_path):
    """A folder with one person cannot be trained on."""
    one = tmp_path / "one"
    shutil.copytree(faces / "images" / "drawn0000", one / "images" / "drawn0000")
    (one / "people.csv").write_text("person,part\ndrawn0000,train\n")
    _unchanged(segue, workspace, 1, "people", "train", "base", "faces", "--data", one)


def test_broken_images_are_reported_and_the_others_enrolled(segue, workspace, faces, tmp_path):
    """Undecodable and truncated images are named with their reason; the exit code is 1."""
    folder = tmp_path / "mixed"
    shutil.copytree(faces / "images" / "drawn0009", folder / "drawn0009")
    good = next((folder / "drawn0009").iterdir()).read_bytes()
    (folder / "bad").mkdir()
    (folder / "bad" / "text.png").write_bytes(b"this is no image")
    (folder / "bad" / "half.png").write_bytes(good[: len(good) // 2])
    run = segue("-w", workspace, "gallery", "enroll", "people", folder, "--json")
    assert run.code == 1
    value = json.loads(run.out)
    assert value["enrolled"] == 4
    reasons = {f["item_id"]: f["reason"] for f in value["failed"]}
    assert set(reasons) == {"bad/text.png", "bad/half.png"}
    assert "truncated or damaged" in reasons["bad/half.png"]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.eye(3, 7, dtype=np.float32), "dimension 7"),
        (np.full((3, 64), np.nan, np.float32), "NaN"),
        (np.ones((3, 64), np.float32), "divide each by its length, or pass --normalise"),
    ],
)
def test_bad_vectors_are_refused_whole(segue, workspace, tmp_path, vectors, message):
    """Vectors of another dimension, with NaN or not normalised are not imported at all."""
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "ids.txt").write_text("a\nb\nc\n")
    _unchanged(
        segue, workspace, 1, message,
        "gallery", "import", "people", tmp_path / "v.npy", "--ids", tmp_path / "ids.txt",
    )  # fmt: skip


def test_a_tampered_model_is_refused_before_it_is_parsed(segue, workspace, faces):
    """A changed byte in any file of a model stops everything that would load it."""
    probe = next((faces / "images" / "drawn0001").iterdir())
    for file in sorted((workspace / "models" / "faces-1").iterdir()):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        loads = ("calibrate", "faces/1", "--data", faces)  # who reads whom it was trained on
        if file.name != "people.json":
            loads = ("search", "people", probe)
        _refused(segue("-w", workspace, *loads), 1, "not the file")
        file.write_bytes(content)
    assert segue("-w", workspace, "search", "people", probe).code == 0


def test_a_file_that_would_run_code_is_refused_and_runs_nothing(segue, workspace, tmp_path):
    """Pickles and zipped pickles given as models are refused; their code never runs."""
    ran = tmp_path / "ran"
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(pickle.dumps(_RunsCode(ran)))
    zipped = tmp_path / "zipped.onnx"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_RunsCode(ran)))
    zipped.write_bytes(buffer.getvalue())
    for file in (plain, zipped):
        _unchanged(
            segue, workspace, 1, "refusing to load", "models", "register", "bad", "--onnx", file
        )
    weights = workspace / "models" / "faces-1" / "weights.safetensors"
    weights.write_bytes(pickle.dumps(_RunsCode(ran)))
    run = segue("-w", workspace, "doctor")
    assert run.code == 1
    assert "not the file that was registered" in run.out
    assert not ran.exists()


def test_an_item_that_is_there_is_not_enrolled_twice(segue, workspace, faces):
    """Enrolling the same folder again is refused whole, and says how to replace."""
    _unchanged(
        segue, workspace, 1, "--replace",
        "gallery", "enroll", "people", faces / "images" / "drawn0001",
    )  # fmt: skip


def test_a_second_start_and_a_stale_plan_are_refused(segue, workspace, faces, tmp_path):
    """One migration at a time (75), and a plan that no longer fits is stale (3)."""
    plan = tmp_path / "plan.json"
    made = segue("-w", workspace, "migrate", "plan", "people", "--to", "faces/2", "--out", plan)
    assert made.code == 0, made
    assert "blue-green" in made.out
    more = faces / "images" / "drawn0013"
    assert segue("-w", workspace, "gallery", "enroll", "people", more).code == 0
    _unchanged(segue, workspace, 3, "stale", "migrate", "start", "people", "--plan", plan)
    again = segue("-w", workspace, "migrate", "start", "people", "--to", "faces/2")
    assert again.code == 0, again
    _unchanged(segue, workspace, 75, "people", "migrate", "start", "people", "--to", "faces/2")
