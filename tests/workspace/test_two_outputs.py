"""An upgrade whose v2 has a head for v1 of the dimension that its own output has, and a chain."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from segue import Workspace
from segue.errors import EvaluationError, GalleryError, UnknownVersionError, VectorError
from segue.evaluation.gate import Check, GateResult
from segue.images import read_faces
from segue.index import Probe
from segue.synthetic import write_faces
from segue.train import HarmonicSettings, TrainSettings
from segue.types import BASE_OUTPUT
from segue.workspace.lineage import edge_outputs

SMALL = TrainSettings(width=4, image_size=32, steps=4, threads=1, dimension=16)
FURTHER = HarmonicSettings(image_size=32, head_steps=2, steps=2, threads=1)
OWN, HEAD = "embedding", "compatible"
V1, V2, V3 = "faces/1", "faces/3", "faces/4"
PEOPLE = ["drawn0013", "drawn0021", "drawn0001"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, people=60, images=4, size=32, seed=5)
    return folder


@pytest.fixture(scope="module")
def chain(tmp_path_factory, faces) -> Workspace:
    """v1; v2 trained for v1 and measured; v3 trained for v2; all outputs of one dimension."""
    workspace = Workspace.init(tmp_path_factory.mktemp("chain") / "w")
    workspace.train_base("faces", faces, SMALL, old_only=True)
    workspace.train_base("faces", faces, SMALL)
    made, _ = workspace.train_harmonic(faces, FURTHER, old=V1, start="faces/2")
    assert made.version == V2
    workspace.evaluate_compatibility(V1, V2, faces, bootstrap=20)
    made, _ = workspace.train_harmonic(faces, FURTHER, old=V2, start=V2, twin=False)
    assert made.version == V3
    return workspace


def images_of(faces, count=6):
    return read_faces(faces).part("validation").load((32, 32))[:count]


def begun(workspace, name, faces, limit):
    gallery = workspace.create_gallery(name, V1)
    for person in PEOPLE:
        workspace.enroll(name, faces / "images" / person, identity=person)
    workspace.start(workspace.plan(name, V2, strategy="mixed", batch=3), force="a test")
    workspace.migration(name).run(limit=limit)
    return gallery


def outputs_stored(gallery, version):
    """Return the outputs of which some item has a row of that version."""
    whole = {OWN: np.eye(1, 16, dtype=np.float32), HEAD: np.eye(1, 16, dtype=np.float32)}
    hits = gallery.search(Probe(V2, whole), k=gallery.count_items())[0]
    rows = [row for hit in hits for row in gallery.item(hit.item_id)]
    return {row.output for row in rows if row.version == version}


def check_hits(gallery, probe):
    """Every item is found, at the distance of the outputs that its edge names."""
    for row, hits in enumerate(gallery.search(probe, k=gallery.count_items())):
        assert len(hits) == gallery.count_items()
        for hit in hits:
            stored = {(x.version, x.output): x.vector for x in gallery.item(hit.item_id)}
            asked = HEAD if (probe.version, hit.version) == (V2, V1) else OWN
            vector = probe.vectors[asked][row]
            assert hit.output == (HEAD if (probe.version, hit.version) == (V1, V2) else OWN)
            expected = ((vector - stored[hit.version, hit.output]) ** 2).sum()
            assert abs(hit.distance - expected) < 1e-4
            assert hit.far is not None
        assert [hit.far for hit in hits] == sorted(hit.far for hit in hits)
    return {hit.version for hit in hits}


def test_a_version_with_a_head_of_the_same_dimension_is_compared_through_it(chain):
    """The edges name `compatible` on v2's side, although its own output would fit as well."""
    assert chain.registry.resolve(V2).outputs == {OWN: 16, HEAD: 16}
    edges = {
        (V1, V1): (OWN, OWN),
        (V2, V2): (OWN, OWN),
        (V2, V1): (HEAD, OWN),
        (V1, V2): (OWN, HEAD),
    }
    for pair, outputs in edges.items():
        edge = chain.registry.edge(*pair)
        assert (edge.probe_output, edge.stored_output) == outputs
        assert edge.calibration is not None


def test_its_gallery_migrates_and_keeps_the_head_only_while_it_is_needed(chain, faces):
    """Mixed, probes of both versions find everything; completed, only the own output is stored."""
    gallery = begun(chain, "whole", faces, limit=5)
    images = images_of(faces)
    for version in (V1, V2):
        probe = Probe(version, chain.registry.load(version).embed(images))
        assert check_hits(gallery, probe) == {V1, V2}
    assert gallery.outputs_needed(V2) == (OWN, HEAD)
    assert outputs_stored(gallery, V2) == {OWN, HEAD}
    migration = chain.migration("whole")
    migration.run()
    migration.verify()
    assert check_hits(gallery, Probe(V1, chain.registry.load(V1).embed(images))) == {V2}
    completion = migration.complete(yes=True)
    count = gallery.count_items()
    assert completion.removed == 2 * count
    assert outputs_stored(gallery, V2) == {OWN}
    assert gallery.check() == []
    assert check_hits(gallery, Probe(V2, chain.registry.load(V2).embed(images))) == {V2}
    with pytest.raises(GalleryError, match=f"embed the probe with {V2}"):
        gallery.search(Probe(V1, chain.registry.load(V1).embed(images)))
    chain.enroll("whole", faces / "images" / "drawn0005")
    assert outputs_stored(gallery, V2) == {OWN}
    assert gallery.count_pending(V2) == 0


def test_the_head_stays_while_items_are_left_on_the_old_version(chain, faces, tmp_path):
    """An item whose image is gone stays old: then probes of v1 still find everything."""
    folder = shutil.copytree(faces / "images" / "drawn0013", tmp_path / "drawn0013")
    gallery = chain.create_gallery("left", V1)
    chain.enroll("left", folder, identity="drawn0013")
    min(folder.iterdir()).unlink()
    chain.start(chain.plan("left", V2, strategy="mixed", batch=3), force="a test")
    migration = chain.migration("left")
    migration.run()
    migration.verify()
    completion = migration.complete(yes=True, leave_old=True)
    assert (completion.left, completion.removed) == (1, gallery.count_items() - 1)
    assert outputs_stored(gallery, V2) == {OWN, HEAD}
    for version in (V1, V2):
        probe = Probe(version, chain.registry.load(version).embed(images_of(faces)))
        assert check_hits(gallery, probe) == {V1, V2}


def test_a_revert_finds_what_was_enrolled_meanwhile(chain, faces):
    """Without a GO nobody vouches for the head: new items are embedded by both versions."""
    gallery = begun(chain, "doubted", faces, limit=4)
    chain.enroll("doubted", faces / "images" / "drawn0005", identity="drawn0005")
    chain.migration("doubted").revert()
    probe = Probe(V1, chain.registry.load(V1).embed(images_of(faces)))
    assert check_hits(gallery, probe) == {V1}


def test_a_revert_finds_what_was_enrolled_meanwhile_through_the_head(chain, faces, monkeypatch):
    """Items that only v2 has embedded are found by v1 probes, in v1's space, as a GO says."""
    go = GateResult(True, (Check("tax", True, 0.0, 0.02, "the tax is within its budget"),))
    monkeypatch.setattr("segue.evaluation.gate.evaluate_gate", lambda _: go)
    chain.evaluate_compatibility(V1, V2, faces, bootstrap=20)
    gallery = begun(chain, "back", faces, limit=4)
    chain.enroll("back", faces / "images" / "drawn0005", identity="drawn0005")
    chain.migration("back").revert()
    assert gallery.serving == V1
    probe = Probe(V1, chain.registry.load(V1).embed(images_of(faces)))
    assert check_hits(gallery, probe) == {V1, V2}
    found = {hit.item_id: hit for hit in gallery.search(probe, k=gallery.count_items())[0]}
    new = [hit for hit in found.values() if hit.identity == "drawn0005"]
    assert {(hit.version, hit.output) for hit in new} == {(V2, HEAD)}


def test_a_chain_is_compared_by_what_each_was_trained_for(chain):
    """v3's head belongs to v2; of v3 and v1 the own outputs are compared, whatever fits too."""
    versions = {name: chain.registry.resolve(name) for name in (V1, V2, V3, "faces-twin/1")}
    expected = {
        (V3, V2): (HEAD, OWN),
        (V2, V3): (OWN, HEAD),
        (V2, V1): (HEAD, OWN),
        (V1, V2): (OWN, HEAD),
        (V3, V1): (OWN, OWN),
        (V1, V3): (OWN, OWN),
        (V3, V3): (OWN, OWN),
        ("faces-twin/1", V2): (OWN, OWN),
        ("faces-twin/1", V1): (OWN, OWN),
    }
    for (probe, stored), outputs in expected.items():
        assert edge_outputs(chain.registry, versions[probe], versions[stored]) == outputs


def test_the_matrix_of_a_chain_follows_it(chain, faces):
    """Every edge of the matrix names the outputs that lineage says."""
    measured = chain.evaluate_matrix([V1, V2, V3], faces, bootstrap=10).matrix
    assert measured.cell(V3, V2).outputs == (HEAD, OWN)
    assert measured.cell(V3, V1).outputs == (OWN, OWN)
    assert measured.cell(V2, V1).outputs == (HEAD, OWN)


def test_a_report_of_old_and_new_exchanged_is_refused(chain, faces):
    """What was trained for the other is the new version, and the message says so."""
    with pytest.raises(EvaluationError, match=f"--old {V1} --new {V2}"):
        chain.evaluate_compatibility(V2, V1, faces, bootstrap=20)


def test_old_vectors_of_another_dimension_than_registered_are_refused(chain, faces, tmp_path):
    """A file of a third model's vectors is not taken for the old version's."""
    everyone = read_faces(faces)
    paths = [face.path.relative_to(everyone.root).as_posix() for face in everyone.faces]
    vectors = np.tile(np.eye(1, 8, dtype=np.float32), (len(paths), 1))
    np.savez(tmp_path / "old.npz", paths=np.array(paths), vectors=vectors)
    with pytest.raises((VectorError, EvaluationError), match="dimension"):
        chain.evaluate_compatibility(V1, V2, faces, old_vectors=tmp_path / "old.npz", bootstrap=20)


class Lineage:
    """A registry of versions that are only described."""

    def __init__(self):
        self.known = {}

    def add(self, version, outputs, *, old=None, kind="network", fingerprint=None, base=None):
        details = {} if old is None else {"old": old}
        self.known[version] = SimpleNamespace(
            version=version,
            outputs=outputs,
            details=details,
            kind=kind,
            fingerprint=fingerprint or version,
            retuned_from=base,
        )
        return self.known[version]

    def resolve(self, version):
        if version not in self.known:
            raise UnknownVersionError(version, self.known)
        return self.known[version]


def test_lineage_decides_and_dimensions_only_where_nothing_is_known():
    """Siblings, copies, vectors of unknown origin, shared heads and lost ancestors."""
    registry = Lineage()
    v1 = registry.add("a/1", {OWN: 8})
    copy = registry.add("copy/1", {OWN: 8}, fingerprint="a/1")
    vectors = registry.add("gone/1", {OWN: 8}, kind="vectors")
    one = registry.add("b/1", {OWN: 8, HEAD: 8}, old="a/1")
    other = registry.add("c/1", {OWN: 12, HEAD: 8}, old="a/1")
    shared = registry.add("d/1", {OWN: 8}, old="a/1")
    third = registry.add("e/1", {OWN: 12, HEAD: 8}, old="d/1")
    orphan = registry.add("f/1", {OWN: 12, HEAD: 8}, old="lost/1")
    foreign = registry.add("g/1", {OWN: 12, HEAD: 8})

    def outputs(probe, stored):
        return edge_outputs(registry, probe, stored)

    assert outputs(one, v1) == outputs(other, v1) == (HEAD, OWN)
    assert outputs(one, copy) == (HEAD, OWN)
    assert outputs(one, vectors) == outputs(orphan, vectors) == (HEAD, OWN)
    assert outputs(shared, v1) == (OWN, OWN)
    assert outputs(third, shared) == outputs(third, v1) == (HEAD, OWN)
    assert outputs(foreign, v1) == (HEAD, OWN)
    assert outputs(v1, foreign) == (OWN, HEAD)
    for probe, stored in ((one, other), (orphan, v1), (v1, orphan)):
        with pytest.raises(EvaluationError, match=r"segue train bridge"):
            outputs(probe, stored)
    retuned = registry.add("a/1~b1", {OWN: 8, BASE_OUTPUT: 8}, kind="mapped", base="a/1")
    harmonic = registry.add("h/1", {OWN: 12, HEAD: 8}, old="a/1~b1")
    assert outputs(retuned, v1) == (BASE_OUTPUT, OWN)
    assert outputs(harmonic, retuned) == (HEAD, OWN)
    assert outputs(retuned, harmonic) == (OWN, HEAD)
    with pytest.raises(EvaluationError, match="through the map"):
        outputs(v1, retuned)
    with pytest.raises(EvaluationError, match=r"segue train bridge"):
        outputs(harmonic, v1)
    assert outputs(other, orphan) == (OWN, OWN)
