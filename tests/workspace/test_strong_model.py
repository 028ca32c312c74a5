from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from segue import Workspace
from segue.images import read_faces
from segue.index import NewItem, Probe
from segue.types import DEFAULT_OUTPUT, Preprocessing
from segue.workspace.measuring import embed_faces

DATA = Path(os.environ.get("SEGUE_DATA", Path(__file__).parents[3] / "shared" / "data"))
MODEL = DATA.parent / "models" / "mobilefacenet_ms1m_112.onnx"

pytestmark = [
    pytest.mark.lfw,
    pytest.mark.skipif(
        not (DATA / "lfw").is_dir() or not MODEL.is_file(),
        reason="needs real faces and a real model beside the repository, or SEGUE_DATA",
    ),
]


def test_a_strong_model_ranks_by_far_as_by_distance(tmp_path):
    """Most true matches lie below every calibration impostor, and still rank by their FAR."""
    workspace = Workspace.init(tmp_path / "w")
    imagenet = Preprocessing(112, 112, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    workspace.registry.register_onnx("faces", MODEL, preprocessing=imagenet)
    workspace.calibrate("faces/1", DATA / "lfw")
    chosen = read_faces(DATA / "lfw").part("validation").at_most(3, 0)
    vectors = embed_faces(workspace, "faces/1", chosen)[DEFAULT_OUTPUT]
    gallery = workspace.create_gallery("people", "faces/1")
    items = [NewItem(str(i), face.person) for i, face in enumerate(chosen.faces)]
    gallery.enroll_vectors(items, "faces/1", {DEFAULT_OUTPUT: vectors})

    calibration = workspace.registry.edge("faces/1", "faces/1").calibration
    labels = chosen.labels
    same = (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool)
    distances = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    smallest = calibration.distances[0]
    assert (distances[same] < smallest).mean() > 0.5

    several = np.flatnonzero(same.any(axis=1))[:60]
    found = gallery.search(Probe("faces/1", {DEFAULT_OUTPUT: vectors[several]}), k=50)
    right = 0
    for row, hits in zip(several, found, strict=True):
        others = [hit for hit in hits if hit.item_id != str(row)]
        by_far = sorted(others, key=lambda hit: (hit.far, hit.seq))
        by_distance = sorted(others, key=lambda hit: (hit.distance, hit.seq))
        assert [h.seq for h in by_far] == [h.seq for h in by_distance] == [h.seq for h in others]
        assert len({hit.far for hit in others}) == len({hit.distance for hit in others})
        right += others[0].identity == chosen.faces[row].person
    assert right / len(several) > 0.95
