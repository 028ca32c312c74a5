"""Triplets mined offline: from the network as it is, of whole people, resumed bit for bit."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from train_world import (
    BASE,
    ENOUGH,
    HEADS_FIRST,
    PAPER,
    TYING,
    Killed,
    distances_to_old,
    kill_at,
    unread,
    without_time,
)

from segue.errors import UsageError
from segue.harmonic import OfflineMiner, make_loss
from segue.harmonic.loss_registry import registered_losses
from segue.networks.preprocess import prepare
from segue.train import HarmonicSettings, TrainSettings, train_base, train_harmonic, train_twin
from segue.train.checkpoint import FILE_NAME
from segue.train.feed import Feed, whole_people
from segue.train.objective import offline_mining
from segue.train.task import Mining, Stage, Task
from segue.train.trainee import Trainee
from segue.types import COMPATIBLE_OUTPUT, DEFAULT_OUTPUT, Preprocessing

MINED = {"mine_every": 3, "margin": 0.8, "mine_images": 14}
ANYWAY = {"loss": "harmonic", "self_weight": 0.5, "cross_weight": 1.0}


def feed_of(faces, network, old, **change):
    """Return a feed over the generated faces, mined in the network's own output."""
    settings = dataclasses.replace(BASE, **{**MINED, **change})
    preprocessing = Preprocessing(32, 32)
    miner = OfflineMiner(margin=settings.margin)
    task = Task(
        faces.load((32, 32)),
        faces.labels,
        preprocessing,
        lambda _outputs, _batch: {},
        {},
        Mining(miner, DEFAULT_OUTPUT, None if old is None else torch.from_numpy(old)),
    )
    trainee = Trainee(network)
    return Feed(trainee, task, settings, stage=Stage("one", 9, 1e-3), first=3), trainee, task


@pytest.mark.parametrize("versions", [1, 2])
def test_batches_are_of_mined_triplets(faces, v2, old_vectors, versions):
    """Until the next mining, every batch lies in the subset and holds whole triplets of it."""
    old = old_vectors if versions == 2 else None
    feed, _, _ = feed_of(faces, v2.network, old)
    assert [step for step in range(3, 12) if feed.mines_at(step)] == [3, 6, 9]
    feed.mine(3)
    subset = set(whole_people(faces.labels, 14, BASE.seed, 3).tolist())
    for step in range(3, 6):
        batch, outputs = feed.outputs(step)
        assert set(batch.rows.tolist()) <= subset
        assert len(batch.rows) == len(set(batch.rows.tolist())) <= BASE.images_per_batch
        np.testing.assert_array_equal(batch.labels.numpy(), faces.labels[batch.rows])
        assert len(outputs[DEFAULT_OUTPUT]) == len(batch.rows)
        people = batch.labels.repeat(versions)
        anchor, positive, negative = batch.triplets
        assert len(anchor) >= 1
        assert bool((people[anchor] == people[positive]).all())
        assert bool((people[anchor] != people[negative]).all())
        assert bool((anchor != positive).all())


def test_triplets_are_those_of_the_network_as_it_is(faces, v2, old_vectors):
    """What is drawn from is what mining the subset's unaugmented images in evaluation gives."""
    feed, trainee, task = feed_of(faces, v2.network, old_vectors)
    feed.mine(3)
    subset = whole_people(faces.labels, 14, BASE.seed, 3)
    network = trainee.network.eval()
    with torch.no_grad():
        vectors = network(torch.from_numpy(prepare(task.images[subset], task.preprocessing)))
    expected = task.mining.miner.mine(
        vectors[DEFAULT_OUTPUT],
        torch.from_numpy(faces.labels[subset]),
        torch.from_numpy(old_vectors[subset]),
    )
    _, found = feed._mined
    assert {tuple(row) for row in torch.stack(found).T.tolist()} == {
        tuple(row) for row in torch.stack(expected).T.tolist()
    }


def test_mining_moves_no_statistics_and_draws_nothing(faces, v2):
    """The network is the same after mining, and the global generator too."""
    feed, trainee, _ = feed_of(faces, v2.network, None)
    before = {name: value.clone() for name, value in trainee.state_dict().items()}
    state = torch.get_rng_state()
    feed.mine(3)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in trainee.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_subset_without_triplets_leaves_the_sampler_s_batches(faces, v2):
    """With a margin that nobody is inside of, steps are what they are without mining."""
    mined, _, _ = feed_of(faces, v2.network, None, margin=1e-9)
    plain, _, _ = feed_of(faces, v2.network, None)
    mined.mine(3)
    batch, expected = mined.outputs(4)[0], plain.outputs(4)[0]
    assert batch.triplets is None
    np.testing.assert_array_equal(batch.rows, expected.rows)


@given(
    counts=st.lists(st.integers(1, 5), min_size=2, max_size=12).filter(
        lambda counts: sum(count > 1 for count in counts) >= 2
    ),
    wanted=st.integers(1, 40),
    step=st.integers(0, 50),
)
def test_a_subset_is_of_whole_people(counts, wanted, step):
    """All images of some people: as many as wanted or all, two who can be anchors among them."""
    labels = np.random.default_rng(step).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = whole_people(labels, wanted, 1, step)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows, np.flatnonzero(np.isin(labels, labels[rows])))
    assert len(rows) >= min(wanted, len(labels))
    assert (np.bincount(labels[rows]) > 1).sum() >= 2
    np.testing.assert_array_equal(rows, whole_people(labels, wanted, 1, step))


def test_a_base_training_mines_offline_and_goes_on_to_the_same_weights(faces, tmp_path, v1):
    """Killed anywhere, it goes on at the latest mining, bit for bit; and it is another training."""
    settings = dataclasses.replace(BASE, **MINED)
    expected = train_base(faces, settings)
    assert without_time(expected)[1] != without_time(v1)[1]
    for killed in (1, 3, 4, 8, 10):
        folder = tmp_path / str(killed)
        with pytest.raises(Killed):
            train_base(faces, settings, checkpoint=folder, progress=kill_at(killed))
        steps = []
        resumed = train_base(
            faces,
            settings,
            checkpoint=folder,
            progress=lambda done, _total, what, to=steps: to.append(done) if "step" in what else 0,
        )
        assert without_time(resumed) == without_time(expected)
        begun = 10 if killed == 10 else (killed - 1) // 3 * 3
        assert steps == list(range(begun + 1, 11))


@pytest.mark.parametrize("settings", [PAPER, HEADS_FIRST, "last"])
@pytest.mark.parametrize("killed", [4, 9])
def test_a_harmonic_training_mines_offline_and_goes_on_to_the_same_weights(
    faces, tmp_path, v2, old_vectors, settings, killed
):
    """In each order of stages and with each head, it goes on at the latest mining, bit for bit."""
    if settings == "last":
        settings = dataclasses.replace(HEADS_FIRST, head_last=True)
    settings = dataclasses.replace(settings, **MINED, **ANYWAY)
    arguments = {"start": v2.network, "old_vectors": old_vectors}
    expected = train_harmonic(faces, settings, **arguments)
    arguments["checkpoint"] = tmp_path
    with pytest.raises(Killed):
        train_harmonic(faces, settings, **arguments, progress=kill_at(killed))
    resumed = train_harmonic(faces, settings, **arguments)
    assert without_time(resumed) == without_time(expected)
    online = train_harmonic(
        faces,
        dataclasses.replace(settings, mine_every=0),
        start=v2.network,
        old_vectors=old_vectors,
    )
    assert without_time(online)[1] != without_time(expected)[1]


def test_offline_mining_brings_new_vectors_to_the_old_ones(faces, v2, old_vectors):
    """Trained on mined triplets alone, v2's head finds v1's space."""
    settings = dataclasses.replace(
        HEADS_FIRST, **{**ENOUGH, **ANYWAY, **MINED, "mine_every": 20}, head_dropout=0.0
    )
    trained = train_harmonic(faces, settings, start=v2.network, old_vectors=old_vectors)
    same, different = distances_to_old(trained, COMPATIBLE_OUTPUT, faces, old_vectors)
    assert different - same > 0.6


def test_the_twin_of_an_offline_training_mines_in_each_batch(faces, v2):
    """The twin has no tying loss; its self loss does what it does beside one."""
    settings = dataclasses.replace(PAPER, **MINED, **ANYWAY)
    twin = train_twin(faces, settings, start=v2.network)
    online = train_twin(faces, dataclasses.replace(settings, mine_every=0), start=v2.network)
    assert without_time(twin) == without_time(online)


@pytest.mark.parametrize("loss", sorted(set(TYING) - {"harmonic"}))
def test_a_loss_without_triplets_is_refused_before_images_are_read(
    faces, tmp_path, v2, old_vectors, loss
):
    """The message names the losses that take them."""
    settings = dataclasses.replace(PAPER, mine_every=2, loss=loss)
    told = "takes none; set it to 0, or choose a loss that does: harmonic$"
    with pytest.raises(UsageError, match=told):
        train_harmonic(unread(faces, tmp_path), settings, start=v2.network, old_vectors=old_vectors)


def test_what_a_loss_mines_online_it_mines_offline():
    """Margin, strategy and combinations are the loss's; what weighs nothing is left out."""
    settings = dataclasses.replace(BASE, mine_every=2)
    assert "triplets" in registered_losses()["harmonic"].options
    loss = make_loss("harmonic", margin=0.4, strategy="hardest", negatives="old", self_weight=0.0)
    mining = offline_mining(loss, "harmonic", settings, COMPATIBLE_OUTPUT)
    assert (mining.miner.margin, mining.miner.strategy) == (0.4, "hardest")
    assert mining.miner.combinations == loss.mined
    assert not mining.miner.all_new
    assert mining.output == COMPATIBLE_OUTPUT
    own = offline_mining(make_loss("harmonic"), "harmonic", settings, DEFAULT_OUTPUT)
    assert "nnn" in own.miner.combinations
    assert own.miner.all_new
    triplet = offline_mining(make_loss("triplet", margin=0.3), "triplet", settings, DEFAULT_OUTPUT)
    assert triplet.miner.margin == 0.3
    assert offline_mining(make_loss("l2"), "l2", BASE, DEFAULT_OUTPUT) is None


def test_a_tie_is_the_same_online_and_offline():
    """On all triplets of a batch, mined offline, the tie's loss is what it mines for itself."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, 60, 8, generator=generator, dtype=torch.float64)
    new, old = torch.nn.functional.normalize(vectors, dim=2)
    labels = torch.randint(12, (60,), generator=generator)
    loss = make_loss("harmonic", margin=0.4, self_weight=0.0)
    settings = dataclasses.replace(BASE, mine_every=2)
    miner = offline_mining(loss, "harmonic", settings, COMPATIBLE_OUTPUT).miner
    triplets = miner.mine(new, labels, old)
    assert all(max(row) >= 60 for row in zip(*(t.tolist() for t in triplets), strict=True))
    online, offline = loss(new, labels, old), loss(new, labels, old, triplets=triplets)
    assert offline.item() == pytest.approx(online.item(), abs=1e-12)
    assert online.item() > 0


@pytest.mark.parametrize(
    ("change", "told"),
    [({"mine_every": -1}, "mine_every -1"), ({"mine_images": 3}, "mine_images 3")],
)
def test_impossible_settings_of_mining_are_refused(change, told):
    """Out of range, or with features that serve many steps, mining is refused where written."""
    with pytest.raises(UsageError, match=told):
        TrainSettings(**change)
    with pytest.raises(UsageError, match=told):
        HarmonicSettings(**change, head_images=0)
    with pytest.raises(UsageError, match="set head_images to 0"):
        HarmonicSettings(mine_every=5)


def test_a_checkpoint_stands_at_each_mining(faces, tmp_path):
    """Killed in the step after a mining, what is on disk is the network that was mined."""
    settings = dataclasses.replace(BASE, **MINED)
    seen = []

    def progress(done, _total, what):
        if what.startswith("steps"):
            with safe_open(tmp_path / FILE_NAME, "pt") as content:
                seen.append((done, json.loads(content.metadata()["segue"])["step"]))

    train_base(faces, settings, checkpoint=tmp_path, progress=progress)
    assert seen == [(done, 10 if done == 10 else (done - 1) // 3 * 3) for done in range(1, 11)]
