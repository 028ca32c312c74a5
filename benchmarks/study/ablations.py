"""What is varied of the recipes, and wrong labels, tried on a smaller upgrade.

Trained as the upgrade that decides is, all of these would take two cores a day. Here the faces have
32 pixels a side, v1 has width 6 and v2 width 12: a sixteenth of the work. Everything is trained in
float32, as computers without bfloat16 would take ten times as long for it. Steps, settings and
people are the same. Each recipe that something varies is trained here too, so that every comparison
is of this upgrade; its figures compare with no others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.study.recipes import (
    ABLATION,
    HEAD_BATCHES,
    NOISE,
    OLD,
    PAPER,
    START,
    STEPS,
    STRATEGIES,
    Recipe,
    Study,
    further,
    published,
)

if TYPE_CHECKING:
    from segue.train.settings import HarmonicSettings

SMALL: dict[str, Any] = {"image_size": 32, "precision": "float32"}

SEEDS = 3

AT_ONCE = HEAD_BATCHES + STEPS
"""Batches of the whole network where nothing is trained before it."""


def ablation(name: str, beside: str, says: str, settings: HarmonicSettings) -> Recipe:
    return Recipe(name=name, says=says, settings=settings, group=ABLATION, beside=beside)


def one_stage(settings: HarmonicSettings) -> HarmonicSettings:
    """Return settings without the stage of heads alone: as many batches of FaceNet's way in all."""
    return replace(settings, head_steps=0, steps=AT_ONCE)


def with_loss(loss: str, **given: Any) -> HarmonicSettings:
    """Return Segue's way with another loss at the same weight; `given` are the loss's."""
    return further(loss=loss, loss_settings=given)


def combination(*versions: str) -> HarmonicSettings:
    """Return FaceNet's recipe with some combinations of anchor, positive and negative only."""
    return replace(PAPER, loss_settings={"combinations": versions})


VARIED = ("segue", "harmonic", "bct", "lce", "contra_ract .05")
"""Strategies of the upgrade that decides which something below varies."""

ABLATIONS = (
    # --- two stages against one ---
    ablation(
        "harmonic one stage",
        "harmonic",
        "The whole network from the first step on; its layer is drawn anew too.",
        one_stage(PAPER),
    ),
    ablation(
        "segue, one stage",
        "segue",
        "The whole network and the head from the first step on.",
        one_stage(further()),
    ),
    ablation(
        "bct, one stage",
        "bct",
        "The whole network from the first step on; its layer is drawn anew too.",
        one_stage(published("bct", 1.0)),
    ),
    ablation(
        "contra_ract .05, one stage",
        "contra_ract .05",
        "The whole network from the first step on; its layer is drawn anew too.",
        one_stage(published("contra_ract", 0.1, temperature=0.05)),
    ),
    # --- negatives from both pools against one ---
    ablation(
        "harmonic, old negatives",
        "harmonic",
        "Negatives from v1 only.",
        replace(PAPER, loss_settings={"negatives": ("old",)}),
    ),
    ablation(
        "harmonic, new negatives",
        "harmonic",
        "Negatives from v2 only.",
        replace(PAPER, loss_settings={"negatives": ("new",)}),
    ),
    ablation(
        "segue, both pools",
        "segue",
        "Impostors are vectors of v1 and of v2.",
        with_loss("harmonic_contrast", new_negatives=True),
    ),
    # --- combinations of anchor, positive and negative ---
    *(
        ablation(
            f"harmonic, {versions} only",
            "harmonic",
            "Of anchor, positive and negative (n new, o old) this combination alone.",
            combination(versions),
        )
        for versions in ("nno", "non", "noo", "onn", "ono", "oon")
    ),
    # --- the parts of Segue's recipe ---
    ablation(
        "segue, triplets",
        "segue",
        "FaceNet's harmonic triplets in place of Segue's loss.",
        with_loss("harmonic"),
    ),
    ablation("segue, loss of bct", "segue", "BCT's loss in place of Segue's.", with_loss("bct")),
    ablation(
        "segue, loss of contra_ract",
        "segue",
        "Hot-refresh's loss, T 0.05, in place of Segue's.",
        with_loss("contra_ract", temperature=0.05),
    ),
    ablation(
        "segue, a sum each",
        "segue",
        "One denominator for each image: the supervised contrastive loss.",
        with_loss("harmonic_contrast", shared=False),
    ),
    ablation(
        "segue, one output",
        "segue",
        "Segue's loss in FaceNet's way: on the one output, its embedding layer first.",
        published("harmonic_contrast", 1.0),
    ),
    ablation(
        "segue, no tie before",
        "segue",
        "The whole network is trained without v1, then the head.",
        further(cross_weight=0.0, own_contrast=0.0),
    ),
    ablation(
        "segue, own output untied",
        "segue",
        "The own output knows nothing of v1.",
        further(own_contrast=0.0),
    ),
    ablation(
        "segue, head first",
        "segue",
        "The separate head first, then the whole network, with a tie that weighs 0.3.",
        further(head_last=False, head_steps=HEAD_BATCHES, head_images=0, cross_weight=0.3),
    ),
    ablation(
        "segue, head on new batches",
        "segue",
        "The head's stage embeds, and augments, a batch for each of its steps.",
        further(head_steps=HEAD_BATCHES, head_images=0),
    ),
    ablation(
        "segue, no dropout", "segue", "The head sees all features.", further(head_dropout=0.0)
    ),
    ablation("segue, weight .3", "segue", "The tie weighs 0.3.", further(cross_weight=0.3)),
    ablation("segue, weight 1", "segue", "The tie weighs 1.", further(cross_weight=1.0)),
    ablation(
        "segue, head on small batches",
        "segue",
        "The head's batches are as small as those of the whole network, and three times as many.",
        further(head_people=64, head_singles=16, head_steps=900, head_learning_rate=1e-3),
    ),
    replace(
        ablation("bct, retuned", "bct", "Against v1's retuned vectors.", published("bct", 1.0)),
        retuned=True,
    ),
)

NOISY = ("segue", "harmonic", "bct", "lce")
"""What is trained with wrong labels too: Segue's, FaceNet's, BCT's and the best of the others."""


def small(recipe: Recipe) -> Recipe:
    """Return a recipe as it is trained here."""
    assert recipe.settings is not None
    settings = replace(recipe.settings, precision=SMALL["precision"])
    return replace(recipe, settings=settings, seeds=SEEDS)


def noisy(recipe: Recipe, share: float) -> Recipe:
    return replace(
        recipe,
        name=f"{recipe.name}, {share:.0%} noise",
        says=f"{share:.0%} of v2's training images carry a random other person's label.",
        group=NOISE,
        noise=share,
        beside=recipe.name,
    )


_NAMED = {recipe.name: small(recipe) for recipe in STRATEGIES if recipe.name in VARIED}
PARENTS = tuple(_NAMED[name] for name in VARIED)

ABLATES = Study(
    name="smaller network to a larger one, for ablations",
    says=(
        "Faces of 32 pixels, v1 of width 6 and v2 of width 12, all in float32; steps, settings and "
        "people as in the upgrade that decides. Compare within it alone."
    ),
    old=replace(OLD, width=6, **SMALL),
    start=replace(START, width=12, **SMALL),
    further=replace(PAPER, precision=SMALL["precision"]),
    recipes=(
        *PARENTS,
        *map(small, ABLATIONS),
        *(noisy(_NAMED[name], share) for share in (0.2, 0.1) for name in NOISY),
    ),
    bootstrap=500,
    opens_test=False,
)
