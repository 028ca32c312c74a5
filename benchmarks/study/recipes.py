"""What the study compares: each strategy, bridge, ablation and noise as a named recipe.

Every strategy starts from the same independently trained v2 and takes the same further steps on the
same images; a recipe says only what ties it to v1. Choices between recipes are made on the
validation people. For the part test the recipes are frozen: `frozen.json` beside this file. What is
varied of them, and wrong labels, are tried on a smaller upgrade: `ablations`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.study.foreign import ForeignModel
from segue.train.settings import HarmonicSettings, TrainSettings, paper_settings
from segue.types import Preprocessing

STRATEGY, BRIDGE, ABLATION, NOISE = "strategy", "bridge", "ablation", "noise"
"""The groups of recipes, in the order in which they are worked on."""

MACHINE: dict[str, Any] = {"threads": 1, "precision": "bfloat16"}
"""One thread: runs repeat bit for bit on one machine. The trunks compute in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to an upgrade.

    Attributes:
        name: as tables show it; `--only` takes it.
        says: one sentence on what it does.
        settings: of the further training; its seed is set for each cell. None for a bridge, and
            for the twin itself.
        bridge: kind of the bridge that takes the twin's vectors to v1's space, or empty.
        group: one of the groups above.
        seeds: how many seeds it is trained from.
        noise: share of v2's training images that carry another person's label.
        retuned: v1's vectors are retuned first; the gallery holds the retuned ones.
        beside: name of the recipe that an ablation or noise is compared with.
    """

    name: str
    says: str
    settings: HarmonicSettings | None = None
    bridge: str = ""
    group: str = STRATEGY
    seeds: int = 5
    noise: float = 0.0
    retuned: bool = False
    beside: str = ""


@dataclass(frozen=True, kw_only=True)
class Study:
    """An upgrade, and everything that is tried on it.

    Attributes:
        name: of the upgrade.
        old: training of v1, on the people of part train that are marked for it.
        says: what its figures are good for.
        start: training of the independent v2 that everything goes on from; or a model that was not
            trained here, which stays as it is and only gets a head.
        further: what the twin is trained on with; a recipe's twin has that recipe's self loss and
            steps.
        decides: whether the project's targets apply.
        opens_test: whether its recipes are for the part test too.
        recipes: in the order of importance; the first is the one that others are compared with.
        bootstrap: resamples of people behind each interval.
        fars: false accept rates.
        rhos: mixing ratios.
    """

    name: str
    says: str
    old: TrainSettings
    start: TrainSettings | ForeignModel
    further: HarmonicSettings
    recipes: tuple[Recipe, ...]
    bootstrap: int
    decides: bool = False
    opens_test: bool = True
    fars: tuple[float, ...] = (1e-1, 1e-2, 1e-3)
    rhos: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)


# --- the upgrade from a small network to a larger one, which decides --------------------------

OLD = TrainSettings(width=8, steps=700, **MACHINE)
START = TrainSettings(width=24, steps=800, **MACHINE)
HEAD_BATCHES, STEPS = 150, 500
"""Batches of every further training: for heads on a trunk that stays as it is; for everything."""

ONE_PASS = 30
"""Batches whose images are about those of part train: what Segue embeds for its head, at most."""


def facenet(**given: Any) -> HarmonicSettings:
    """Return FaceNet's way with the study's steps: the one output, its embedding layer first."""
    usual = {"head_steps": HEAD_BATCHES, "steps": STEPS, **MACHINE}
    return paper_settings(**{**usual, **given})


PAPER = facenet()


def published(loss: str, cross_weight: float, **given: Any) -> HarmonicSettings:
    """Return a loss with its published weight in FaceNet's two stages; `given` are the loss's."""
    return facenet(loss=loss, cross_weight=cross_weight, loss_settings=given)


def further(**given: Any) -> HarmonicSettings:
    """Return Segue's defaults with the study's steps, and what is given."""
    usual = {"steps": STEPS, "head_images": ONE_PASS * PAPER.images_per_batch, **MACHINE}
    return HarmonicSettings(**{**usual, **given})


STRATEGIES = (
    Recipe(
        name="segue, retuned",
        says="Segue's defaults against v1's vectors as an affine map of their own leaves them.",
        settings=further(),
        retuned=True,
    ),
    Recipe(
        name="segue",
        says="Segue's defaults: one threshold for all pairs of a batch, on a head of its own.",
        settings=further(),
    ),
    Recipe(name="twin", says="v2 trained on for as many steps, knowing nothing of v1."),
    Recipe(
        name="harmonic",
        says="FaceNet's appendix: triplets that mix both versions, on the one output, two stages.",
        settings=PAPER,
    ),
    Recipe(
        name="bct",
        says="Cross-entropy through v1's class means beside the self loss (BCT, CVPR 2020).",
        settings=published("bct", 1.0),
    ),
    Recipe(
        name="contra_ract .05",
        says="The contrast of Hot-refresh (ICLR 2022) as in the first trial: T 0.05, weight 0.1.",
        settings=published("contra_ract", 0.1, temperature=0.05),
    ),
    Recipe(
        name="harmonic, retuned",
        says="FaceNet's appendix against v1's retuned vectors.",
        settings=PAPER,
        retuned=True,
    ),
    Recipe(
        name="harmonic one stage",
        says="FaceNet's harmonic triplets, the whole network from the first step on.",
        settings=replace(PAPER, head_steps=0, steps=HEAD_BATCHES + STEPS),
    ),
    Recipe(
        name="contra_ract",
        says="The contrast of Hot-refresh (ICLR 2022) as published: T 0.01, weight 1.",
        settings=published("contra_ract", 1.0, temperature=0.01),
    ),
    Recipe(
        name="lce",
        says="v2's class weights aligned with v1's class means, inside its boundaries (ICCV 2021).",
        settings=published("lce", 1.0),
    ),
    Recipe(
        name="mixbct",
        says="The self loss on batches in which 30 % of the vectors are v1's (MixBCT).",
        settings=replace(published("mixbct", 1.0), self_weight=0.0),
    ),
    Recipe(
        name="hoc",
        says="Each image's own v1 vector found among the batch's: InfoNCE, scale 10, weight 0.1.",
        settings=published("hoc", 0.1),
    ),
    Recipe(
        name="l2",
        says="v1's vectors regressed beside the self loss (a variant in BCT).",
        settings=published("l2", 1.0),
    ),
)

BRIDGES = tuple(
    Recipe(name=f"bridge {kind}", says=f"{says} from the twin to v1.", bridge=kind, group=BRIDGE)
    for kind, says in (
        ("procrustes", "The best rotation"),
        ("ridge", "Ridge regression"),
        ("low_rank", "Ridge regression of reduced rank"),
        ("mlp", "Ridge regression and a small network beside it,"),
    )
)


DECIDES = Study(
    name="small to a larger network",
    says="Both networks are trained on part train, v1 on half of its people. This upgrade decides.",
    old=OLD,
    start=START,
    further=PAPER,
    recipes=(*STRATEGIES, *BRIDGES),
    bootstrap=500,
    decides=True,
)

# --- the upgrade to a model that was not trained here, which illustrates ----------------------

FOREIGN = ForeignModel(
    name="mobilefacenet_ms1m_112.onnx",
    sha256="4bc1ac98f9d75932bea11c09720a91af0866401c817ec2b1dd7b87f3b952b95a",
    preprocessing=Preprocessing(112, 112, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), flip=True),
)


def head(loss: str, **given: Any) -> HarmonicSettings:
    """Return a linear head's training on frozen features; `given` are the loss's."""
    return HarmonicSettings(
        head_steps=1500, head_learning_rate=1e-3, loss=loss, loss_settings=given, **MACHINE
    )


ILLUSTRATES = Study(
    name="small network to MobileFaceNet",
    says=(
        "v2 is MobileFaceNet with frozen features and a linear head to v1's space, or a bridge. It "
        "illustrates a strong v2: it has seen LFW's people elsewhere, so no target applies."
    ),
    old=OLD,
    start=FOREIGN,
    further=PAPER,
    recipes=(
        Recipe(
            name="segue head",
            says="A linear head on frozen features by Segue's loss.",
            settings=head("harmonic_contrast"),
        ),
        Recipe(
            name="harmonic head",
            says="A linear head on frozen features by FaceNet's harmonic triplets.",
            settings=head("harmonic"),
        ),
        Recipe(
            name="bct head",
            says="A linear head on frozen features by the loss of BCT.",
            settings=head("bct"),
        ),
        Recipe(
            name="contra_ract head",
            says="A linear head on frozen features by the loss of Hot-refresh, T 0.05.",
            settings=head("contra_ract", temperature=0.05),
        ),
        *(replace(bridge, name=f"{bridge.name}, MobileFaceNet") for bridge in BRIDGES),
    ),
    bootstrap=500,
)
