from __future__ import annotations

import json
import shutil

import pytest
from cli_world import state

ENDS = ("--old", "faces/1", "--from", "faces/2")
FEW = ("--steps", 2, "--head-steps", 2, "--threads", 1)


@pytest.fixture
def workspace(made, tmp_path):
    return shutil.copytree(made, tmp_path / "w")


def _trained(run):
    assert run.code == 0, run
    return json.loads(run.out)


def test_both_recipes_are_trained_by_name(segue, workspace, faces):
    """The default gives v1 an output of its own; the paper's has one output; both say how."""
    command = ("-w", workspace, "train", "harmonic", "--data", faces, *ENDS, *FEW, "--json")
    first, twin = _trained(segue(*command))
    assert first["outputs"] == {"embedding": 64, "compatible": 64}
    assert first["details"]["training"]["loss"] == "harmonic_contrast"
    assert twin["outputs"] == {"embedding": 64}
    of_v1 = {"loss", "cross_weight", "separate_head", "own_contrast", "head_steps"}
    assert not of_v1 & twin["details"]["training"].keys()
    assert twin["details"]["training"]["steps"] == 2
    (second,) = _trained(segue(*command, "--recipe", "paper", "--no-twin"))
    assert second["outputs"] == {"embedding": 64}
    settings = second["details"]["training"]
    assert (settings["loss"], settings["cross_weight"]) == ("harmonic", 1.0)


def test_every_setting_of_a_recipe_can_be_given(segue, workspace, faces):
    """What is given takes the place of the recipe's; the loss's own settings go by name."""
    (version,) = _trained(
        segue(
            "-w", workspace, "train", "harmonic", "--data", faces, *ENDS, *FEW, "--json",
            "--no-twin", "--recipe", "paper", "--loss", "harmonic", "--loss-setting",
            "strategy=hardest", "--loss-setting", "negatives=old", "--loss-setting", "margin=0.4",
            "--cross-weight", 0.7, "--self-weight", 0.9, "--separate-head", "--head-dropout", 0.25,
            "--precision", "bfloat16", "--mine-every", 1, "--learning-rate", 0.002, "--seed", 3,
        )
    )  # fmt: skip
    found = version["details"]["training"]
    expected = {
        "loss": "harmonic",
        "loss_settings": {"strategy": "hardest", "negatives": "old", "margin": 0.4},
        "cross_weight": 0.7,
        "self_weight": 0.9,
        "separate_head": True,
        "head_dropout": 0.25,
        "precision": "bfloat16",
        "mine_every": 1,
        "learning_rate": 0.002,
        "seed": 3,
    }
    assert {name: found[name] for name in expected} == expected
    assert version["outputs"] == {"embedding": 64, "compatible": 64}


def test_a_shared_head_comes_in_the_paper_s_order(segue, workspace, faces):
    """`--shared-head` alone keeps the default's loss, and draws the one output anew, first."""
    (version,) = _trained(
        segue(
            "-w", workspace, "train", "harmonic", "--data", faces, *ENDS, *FEW, "--json",
            "--no-twin", "--shared-head",
        )
    )  # fmt: skip
    found = version["details"]["training"]
    assert (found["loss"], found["head_last"], found["head_images"]) == (
        "harmonic_contrast",
        False,
        0,
    )
    assert version["outputs"] == {"embedding": 64}


def test_one_output_for_two_dimensions_is_refused_or_told(segue, workspace, faces):
    """`--shared-head` is not silently left out; the paper's recipe says so, and so does its v2."""
    assert segue(
        "-w", workspace, "train", "base", "faces", "--data", faces, "--dimension", 16,
        "--steps", 2, "--width", 4, "--image-size", 32, "--threads", 1,
    ).code == 0  # fmt: skip
    command = ("train", "harmonic", "--data", faces, "--old", "faces/1", "--from", "faces/3", *FEW)
    before = state(workspace)
    refused = segue("-w", workspace, *command, "--shared-head")
    assert refused.code == 2
    told = "faces/1 has dimension 64, faces/3 16: one output cannot be compared with both"
    assert refused.err.startswith(f"segue: {told}; leave out --shared-head")
    assert state(workspace) == before
    run = segue("-w", workspace, *command, "--recipe", "paper", "--no-twin", "--json")
    assert run.err == f"segue: {told}, so v1 gets a separate head\n"
    (version,) = _trained(run)
    assert version["outputs"] == {"embedding": 16, "compatible": 64}
    assert version["details"]["training"]["separate_head"] is True


def test_a_base_training_takes_a_precision(segue, workspace, faces):
    """bfloat16 is remembered with the version's other settings."""
    version = _trained(
        segue(
            "-w", workspace, "train", "base", "faces", "--data", faces, "--precision", "bfloat16",
            "--steps", 2, "--width", 4, "--image-size", 32, "--threads", 1, "--json",
        )
    )  # fmt: skip
    assert version["details"]["training"]["precision"] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--loss", "triplet"), "uses no old vectors"),
        (("--loss", "harmonik"), "known: bct"),
        (("--loss-setting", "temperature"), "write NAME=VALUE"),
        (("--loss-setting", "=3"), "write NAME=VALUE"),
        (("--loss-setting", "temperature=1", "--loss-setting", "temperature=2"), "each name once"),
        (("--loss-setting", "warmth=1"), "has no setting warmth; it takes temperature"),
        (("--loss-setting", "temperature=-1"), "temperature -1"),
        (("--loss-setting", "temperature=cold"), "is no number"),
        (("--head-dropout", "1.5"), "head_dropout 1.5"),
        (("--cross-weight", "-1"), "cross_weight -1"),
        (("--head-images", "-1"), "head_images -1"),
        (("--mine-every", "5"), "set head_images to 0"),
        (("--mine-every", "5", "--head-images", "0"), "a loss that does: harmonic"),
        (("--recipe", "paper", "--mine-every", "5", "--loss", "l2"), "'l2' takes none"),
        (("--recipe", "soup"), "'soup' is not one of"),
        (("--precision", "float16"), "'float16' is not one of"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_embedded(
    segue, workspace, faces, monkeypatch, arguments, message
):
    """Each mistake is a usage error that names it; no image is read and nothing is changed."""

    def embedded(*_arguments, **_named):
        raise AssertionError("images were embedded")

    monkeypatch.setattr("segue.workspace.measuring.embed_faces", embedded)
    before = state(workspace)
    run = segue("-w", workspace, "train", "harmonic", "--data", faces, *ENDS, *arguments)
    assert run.code == 2, run
    assert message in run.err, run.err
    assert "Traceback" not in run.err
    assert state(workspace) == before
