"""Versions that nothing in the workspace joins: an edge is theirs if they tell people apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from network_world import register_all
from PIL import Image

from segue import Workspace
from segue.errors import EvaluationError, UnmeasuredEdgeError
from segue.evaluation import gate as judging
from segue.evaluation.gate import Check, GateResult
from segue.images import read_faces
from segue.networks import build_network
from segue.workspace import measuring
from segue.workspace.measuring import TOLD_APART

OLD, TIED, APART = "faces/1", "faces/2", "faces/3"


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """People that are coloured squares, so that a network need not be trained to know them."""
    folder = tmp_path_factory.mktemp("faces")
    draw = np.random.default_rng(0)
    lines = ["person,part"]
    for number in range(45):
        name = f"p{number:02d}"
        lines.append(f"{name},{('train', 'validation', 'calibration')[number % 3]}")
        (folder / "images" / name).mkdir(parents=True)
        squares = draw.integers(0, 256, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
        for image in range(4):
            pixels = np.clip(squares + draw.normal(0, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{image}.png")
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """v1, a v2 that another tool tied to it (the same but for some noise), and a stranger."""
    made = Workspace.init(tmp_path / "w")
    networks = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            networks.append(build_network("small", {"width": 4, "dimension": 8}))
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        weight = networks[1].heads["embedding"].weight
        weight.add_(0.05 * weight.std() * torch.randn(weight.shape, generator=draw))
    register_all(made, *networks)
    return made


def test_versions_that_do_not_tell_people_apart_get_no_edge(workspace, faces):
    """A search by the edge of two strangers would rank by noise: nothing is stored."""
    with pytest.raises(EvaluationError, match=r"faces/3 -> faces/1 into one space .* VAL 0\.\d\d"):
        workspace.calibrate(APART, faces, stored=OLD)
    with pytest.raises(UnmeasuredEdgeError):
        workspace.registry.edge(APART, OLD)
    result = workspace.evaluate_compatibility(OLD, APART, faces, bootstrap=10)
    assert result.left_out == (f"{APART} -> {OLD}", f"{OLD} -> {APART}")


def test_versions_that_were_joined_elsewhere_get_their_edges(workspace, faces, monkeypatch):
    """Once a calibration found it out, the report stores both edges, the matrix too."""
    left_out = workspace.evaluate_compatibility(OLD, TIED, faces, bootstrap=10).left_out
    assert left_out == (f"{TIED} -> {OLD}", f"{OLD} -> {TIED}")
    workspace.calibrate(TIED, faces, stored=OLD)
    found = workspace.registry.edge(TIED, OLD).measured[TOLD_APART]
    assert 0.3 <= found <= 1
    go = GateResult(True, (Check("tax", True, 0.0, 0.02, "the tax is within its budget"),))
    monkeypatch.setattr(judging, "evaluate_gate", lambda _: go)
    for _ in range(2):  # a report's own edges tell it as well
        assert workspace.evaluate_compatibility(OLD, TIED, faces, bootstrap=10).left_out == ()
        assert workspace.registry.edge(TIED, OLD).measured[TOLD_APART] == found
    assert workspace.registry.edge(OLD, TIED).calibration is not None
    assert workspace.registry.gate_of(OLD, TIED).go
    matrix = workspace.evaluate_matrix([OLD, TIED], faces, bootstrap=10, save_edges=True)
    assert f"{TIED} -> {OLD}" in matrix.saved


def test_more_images_than_memory_holds_are_drawn_from_by_person(workspace, faces, monkeypatch):
    """Whole people are drawn, and every command says of how many."""
    monkeypatch.setattr(measuring, "MOST_IMAGES", 32)
    told = workspace.calibrate(OLD, faces)
    people = len(read_faces(faces).part("calibration").people)
    assert told["note"].startswith(f"8 of {people} people are measured, drawn by seed")
    assert workspace.registry.edge(OLD, OLD).calibration.people == 8
    monkeypatch.setattr(measuring, "MOST_IMAGES", 36)
    result = workspace.evaluate_compatibility(OLD, TIED, faces, bootstrap=10)
    assert (result.report.people, result.report.images) == (9, 36)
    assert result.drawn.startswith("9 of ")
    assert result.drawn in (result.folder / "report.md").read_text()
    matrix = workspace.evaluate_matrix([OLD, TIED], faces, bootstrap=10)
    assert result.drawn in (matrix.folder / "matrix.md").read_text()
