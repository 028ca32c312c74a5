"""How fast triplets are mined, against other miners and against the rest of a training step.

    python benchmarks/mining.py [--rounds 9]

Three questions, all on random unit vectors around each person's centre, in as many threads as torch
has by default:

- at 1,200 exemplars, 40 for each identity: semi-hard mining from vectors, beside pytorch-metric-
  learning's `TripletMarginMiner(type_of_triplets="semihard")`, which returns all semi-hard
  triplets, and beside a plain vectorised miner that returns one negative for each pair. All run in
  turns in this process, and ours are checked: for each pair the nearest of pytorch-metric-
  learning's, none where it has none. Wanted: at least 100 times faster than it;
- 1,800 anchors against 3,600 references, in a process of its own: time, and memory at its highest
  above what was there before. Wanted: under 0.5 s and 500 MB;
- at batch 256 (64 people of 4 images) of the network `small`: the share of one training step that
  mining and loss take, forwards and backwards, of v2's own triplet loss and the harmonic loss
  together. Wanted: under 10 %.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

from segue.harmonic import (
    HarmonicTripletLoss,
    TripletLoss,
    mine_pools,
    nearest_semi_hard,
    semi_hard_triplets,
)
from segue.harmonic.mining import pairwise_squared_distances

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

MARGIN = 0.2
PAIRS_AT_ONCE = 4096  # of the plain miner


def faces(people: int, images: int, dimension: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return unit vectors float32 [people · images, dimension], and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(people).repeat_interleave(images)
    centres = torch.randn(people, dimension, generator=generator)
    noise = torch.randn(people * images, dimension, generator=generator)
    return normalize(centres[labels] + noise, dim=1), labels


def plain_miner(vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mine one negative for each pair by a masked minimum over the pair's whole row."""
    distances = pairwise_squared_distances(vectors, vectors)
    same = labels[:, None] == labels
    anchor, positive = same.clone().fill_diagonal_(False).nonzero(as_tuple=True)
    found = []
    for pairs in torch.arange(len(anchor)).split(PAIRS_AT_ONCE):
        a, p = anchor[pairs], positive[pairs]
        rows, to_positive = distances[a], distances[a, p]
        wanted = ~same[a] & (rows > to_positive[:, None])
        to_negative, negative = rows.masked_fill(~wanted, torch.inf).min(dim=1)
        kept = to_negative < to_positive + MARGIN
        found.append(torch.stack([a[kept], p[kept], negative[kept]]))
    return tuple(torch.cat(found, dim=1))


def in_turns(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each job; they take turns, after one round that warms up."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            begun = time.perf_counter()
            job()
            if turn:
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in times.items()}


def compare_miners(rounds: int) -> None:
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.miners import TripletMarginMiner

    vectors, labels = faces(30, 40)
    measure = LpDistance(normalize_embeddings=False, p=2, power=2)
    everything = TripletMarginMiner(margin=MARGIN, type_of_triplets="semihard", distance=measure)
    jobs = {
        "Segue": lambda: semi_hard_triplets(vectors, labels, vectors, labels, margin=MARGIN),
        "plain vectorised": lambda: plain_miner(vectors, labels),
        "pytorch-metric-learning": lambda: everything(vectors, labels),
    }
    print("1,200 exemplars, 40 for each identity, d = 64")
    check_nearest(everything(vectors, labels), measure(vectors, vectors), labels)
    medians = in_turns(jobs, rounds)
    for name, seconds in medians.items():
        ratio = seconds / medians["Segue"]
        print(f"  {name:28}{seconds * 1000:10.1f} ms{ratio:9.1f} × Segue (median of {rounds})")


def check_nearest(theirs: tuple[Tensor, Tensor, Tensor], distances: Tensor, labels: Tensor) -> None:
    """Stop unless ours are, for each pair, the nearest of theirs, and none where they have none."""
    rows = len(labels)
    nearest = torch.full((rows * rows,), torch.inf)
    anchor, positive, negative = theirs
    nearest.scatter_reduce_(0, anchor * rows + positive, distances[anchor, negative], "amin")
    same = labels[:, None] == labels
    pairs = same.clone().fill_diagonal_(False)
    ours = nearest_semi_hard(distances, pairs, ~same, MARGIN)
    mined = torch.full((rows * rows,), torch.inf)
    mined[ours.anchor * rows + ours.positive] = distances[ours.anchor, ours.negative]
    if not torch.equal(mined, nearest):
        raise SystemExit("ours are not the nearest of pytorch-metric-learning's triplets")
    print(
        f"  {int(pairs.sum()):,} pairs; pytorch-metric-learning: {len(anchor):,} triplets; "
        f"Segue: {len(ours.anchor):,}, the nearest of each pair that has any"
    )


def mine_large(rounds: int) -> None:
    """Print time and memory of 1,800 anchors against 3,600 references, in this fresh process."""
    vectors, labels = faces(90, 40)
    anchors, of_anchors = vectors[::2].contiguous(), labels[::2]
    small, of_small = faces(4, 4)
    semi_hard_triplets(small, of_small, small, of_small)  # loads what the first call loads
    before = highest_memory(anew=True)

    def mine() -> None:
        semi_hard_triplets(anchors, of_anchors, vectors, labels, margin=MARGIN)

    begun = time.perf_counter()
    mine()
    first = time.perf_counter() - begun
    median = in_turns({"mine": mine}, rounds)["mine"]
    print("1,800 anchors against 3,600 references, d = 64, in a process of its own")
    print(f"  {'first call':28}{first * 1000:10.1f} ms")
    print(f"  {'time':28}{median * 1000:10.1f} ms (median of {rounds})")
    print(f"  {'memory above before':28}{(highest_memory() - before) / 1e6:10.1f} MB")


def highest_memory(*, anew: bool = False) -> int:
    """Return the bytes that this process has held at most, `anew`: from now on.

    Linux only: a process's `ru_maxrss` begins with what the process that started it held.
    """
    if anew:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def share_of_a_step(width: int, dtype: torch.dtype, rounds: int) -> None:
    from segue.networks import build_network

    _, labels = faces(64, 4)
    old, _ = faces(64, 4, seed=1)
    images = torch.rand(256, 3, 64, 64).to(memory_format=torch.channels_last)
    network = build_network("small", {"width": width})
    optimiser = torch.optim.AdamW(network.parameters())
    self_loss, harmonic = TripletLoss(MARGIN), HarmonicTripletLoss(MARGIN)

    def embed() -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            outputs: dict[str, Tensor] = network(images)
        return outputs["embedding"]

    def learn(v2: Tensor) -> None:
        torch.autograd.backward(self_loss(v2, labels) + harmonic(v2, labels, old))

    def step() -> None:
        optimiser.zero_grad()
        learn(embed())
        optimiser.step()

    vectors = embed().detach().requires_grad_()
    jobs = {
        "whole step": step,
        "mining and both losses": lambda: learn(vectors),
        "mining alone": lambda: (
            mine_pools(vectors, labels, None, margin=MARGIN),
            mine_pools(vectors, labels, old, margin=MARGIN),
        ),
    }
    print(f"one step at batch 256, 64 pixels a side, width {width}, {dtype}")
    medians = in_turns(jobs, rounds)
    for name, seconds in medians.items():
        share = seconds / medians["whole step"]
        print(f"  {name:28}{seconds * 1000:10.1f} ms{share:9.1%} of it (median of {rounds})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="of which medians are taken")
    parser.add_argument("--large", action="store_true", help="only 1,800 against 3,600, in here")
    given = parser.parse_args()
    if given.large:
        mine_large(given.rounds)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    compare_miners(given.rounds)
    sys.stdout.flush()
    command = [sys.executable, __file__, "--large", "--rounds", str(given.rounds)]
    subprocess.run(command, check=True)
    for width in (8, 24):
        for dtype in (torch.float32, torch.bfloat16):
            share_of_a_step(width, dtype, given.rounds)


if __name__ == "__main__":
    main()
