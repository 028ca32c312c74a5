"""Migrating a gallery to its retuned vectors: mapped from what is stored, no image is read."""

from __future__ import annotations

import numpy as np
import pytest
from migration_world import CALIBRATION, GO, NEW, OLD, WIDTH, World

from segue.errors import UsageError
from segue.harmonic.bridges import fit_retuning
from segue.index import NewItem, Probe
from segue.migrations import Migration
from segue.registry import Edge, RetunedEmbedder
from segue.registry.retuned import edges_of

NAME = f"{OLD}~b1"


def unit(count, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def retune(world, base=OLD, *, model=True):
    """Register the retuned version with calibrated edges, and an embedder of it."""
    bridge = fit_retuning(unit(60, 1), np.arange(60) // 3, version=base, steps=30)
    version = world.registry.register_retuned(bridge)
    bridge = world.registry.bridge(version.details["bridge"])
    for edge in (*edges_of(bridge), Edge(version.version, version.version), Edge(base, base)):
        world.registry.save_edge(
            probe=edge.probe,
            stored=edge.stored,
            probe_output=edge.probe_output,
            bridge=edge.bridge,
            calibration=CALIBRATION,
        )
    world.old.preprocessing = None
    world.registry.embedders[version.version] = RetunedEmbedder(
        version, bridge, world.old if model else None
    )
    return version, bridge


@pytest.fixture(params=["float32", "int8"])
def codec(request):
    return request.param


@pytest.fixture
def retuned(tmp_path, codec):
    """Ten items of faces/1 whose images are gone, and the retuned version."""
    world = World(tmp_path, codec=codec)
    world.enroll(10)
    for path in world.enrolled.values():
        path.unlink()
    world.version, world.bridge = retune(world)
    return world


def plan(world, target=NAME, **choices):
    return Migration.plan(
        world.database,
        world.root,
        world.registry,
        world.gallery,
        target,
        **{"batch": 4, **choices},
    )


def close(world, found, expected):
    tolerance = 1e-9 if world.gallery.codec == "float32" else 3e-3
    return float(((found - expected) ** 2).sum()) < tolerance


def test_stored_vectors_are_mapped_and_served(retuned):
    """Without an image: run in parts, verified, cut over, reverted, and again to the end."""
    made = plan(retuned)
    assert (made.strategy, made.to_migrate, made.missing_sources) == ("blue-green", 10, 0)
    migration = retuned.begin(made)
    assert migration.run(limit=3).migrated == 3
    again = retuned.elsewhere()  # as a process that goes on after another was killed
    assert again.run().migrated == 7
    stored = retuned.vectors(OLD)
    for item_id, vector in retuned.vectors(NAME).items():
        assert close(retuned, vector, retuned.bridge.apply(stored[item_id][None], version=OLD)[0])
    assert retuned.gallery.serving == OLD
    seen = migration.verify()
    assert (seen.compared, seen.skipped, seen.left) == (10, {}, 0)
    migration.cutover()
    assert retuned.gallery.serving == NAME
    assert retuned.gallery.companions == ()
    retuned.check_found(NAME)
    retuned.check_found(OLD)  # a server that was not told yet: its probes take the map
    migration.revert()
    assert retuned.gallery.serving == OLD
    retuned.check_found(OLD)
    assert plan(retuned).to_migrate == 0
    migration = retuned.begin(plan(retuned))
    migration.run()
    migration.verify()
    migration.cutover()
    assert migration.complete(yes=True).state == "completed"
    assert retuned.vectors(OLD) == {}
    retuned.check_found(NAME)
    retuned.check_found(OLD)


def test_erased_items_stay_erased(retuned):
    """An item erased while its batch is mapped gets no row, and is counted by nobody."""
    migration = retuned.begin(plan(retuned))
    embedder = retuned.registry.embedders[NAME]
    mapping = embedder.embed_vectors

    def erasing(vectors):
        if "item-0001" in retuned.enrolled:
            retuned.gallery.erase(["item-0001"])
            del retuned.enrolled["item-0001"]
        return mapping(vectors)

    embedder.embed_vectors = erasing
    result = migration.run()
    assert (result.migrated, result.left, result.failed) == (9, 0, 0)
    assert retuned.gallery.stats().rows[NAME, "embedding"] == 9
    migration.verify()
    migration.cutover()
    retuned.check_found(NAME)


def test_what_an_old_server_enrols_stays_findable_and_is_mapped(retuned):
    """After the cut-over too: retuned probes hold the vector before the map."""
    migration = retuned.begin(plan(retuned))
    migration.run()
    migration.verify()
    migration.cutover()
    retuned.enroll_by_old_server(2)
    retuned.check_found(NAME)
    hits = retuned.gallery.search(retuned.probe(["item-0010"], NAME), k=12)[0]
    assert {hit.version for hit in hits} == {OLD, NAME}
    assert hits[0].item_id == "item-0010"
    assert migration.run().migrated == 2
    retuned.enroll(1)  # by the retuned version, from an image
    migration.verify()
    migration.complete(yes=True)
    retuned.check_found(NAME)


def test_it_may_serve_mixed_when_forced(retuned):
    """At every share of mapped items each item is found, as a probe has both vectors."""
    migration = retuned.begin(plan(retuned, strategy="mixed"), force="its edges are exact")
    assert retuned.gallery.serving == NAME
    retuned.check_found(NAME)
    while migration.run(limit=3).left:
        retuned.check_found(NAME)
    retuned.check_found(NAME)
    migration.verify()


def test_the_next_upgrade_starts_there(tmp_path):
    """A gallery of retuned vectors migrates to the next version as any other."""
    world = World(tmp_path)
    world.enroll(6)
    retune(world)
    first = world.begin(plan(world))
    first.run()
    first.verify()
    first.cutover()
    first.complete(yes=True)
    second = world.begin(plan(world, NEW))
    assert second.source == NAME
    assert second.run().migrated == 6
    second.verify()
    second.cutover()
    world.check_vectors(NEW)
    world.check_found(NEW)


def test_items_without_a_stored_vector_are_embedded_from_their_images(tmp_path):
    """Their base's model and the map, where there is one; else they are put aside."""
    world = World(tmp_path)
    world.enroll(3)
    world.edges()
    world.report(GO)
    start = world.start()
    world.enroll(2, world.new)  # by the new version alone: no vector of faces/1
    start.revert()
    _, bridge = retune(world)
    world.registry.embedders[OLD] = world.old
    migration = world.begin(plan(world))
    assert migration.run().migrated == 5
    world.check_vectors(NAME)
    assert bridge.source_version == OLD


def test_without_a_model_vectors_are_mapped_and_images_are_not(tmp_path):
    """A vendor's gallery is retuned; what the vendor did not embed is put aside with its reason."""
    world = World(tmp_path)
    world.add_version("vendor/1", kind="vectors")
    retune(world, "vendor/1", model=False)
    name = "vendor/1~b1"
    world.enroll(2)
    with pytest.raises(UsageError, match="holds no vectors of vendor/1, which vendor/1~b1 maps"):
        plan(world, name)
    for probe, stored in ((OLD, "vendor/1"), ("vendor/1", OLD)):
        world.registry.save_edge(probe=probe, stored=stored, calibration=CALIBRATION)
    with world.database.write() as connection:
        world.gallery.set_serving(connection, OLD, [OLD, "vendor/1"], [])
    items = [NewItem(f"vendor-{n}", None, None) for n in range(3)]
    vectors = unit(3, 7)
    world.gallery.enroll_vectors(items, "vendor/1", {"embedding": vectors})
    made = plan(world, name)
    assert (made.to_migrate, made.missing_sources) == (5, 2)
    result = world.begin(made).run()
    assert (result.migrated, result.failed) == (3, 2)
    status = world.elsewhere().status()
    (reason,) = status.quarantined
    assert "no stored vector to map" in reason
    mapped = world.registry.embedders[name].embed_vectors(vectors)["embedding"]
    rows = {row.version: row.vector for row in world.gallery.item("vendor-1")}
    assert np.allclose(rows[name], mapped[1], atol=1e-6)
    hits = world.gallery.search(Probe("vendor/1", {"embedding": vectors}), k=1)
    assert [found[0].item_id for found in hits] == ["vendor-0", "vendor-1", "vendor-2"]
