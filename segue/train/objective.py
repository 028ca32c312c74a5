"""Registered losses with a training's settings applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.errors import UsageError
from segue.harmonic import OfflineMiner, check_needs, class_means, class_radii, make_loss
from segue.harmonic.loss_registry import registered_losses
from segue.train.settings import HarmonicSettings
from segue.train.task import Mining
from segue.types import COMPATIBLE_OUTPUT, DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from segue.harmonic import Loss
    from segue.train.settings import LoopSettings

_OLD = frozenset({"old_vectors", "old_means"})
_GIVEN = ("labels", "old_vectors", "old_means", "old_radii", "class_weights")


def make_settled_loss(name: str, settings: LoopSettings, given: Mapping[str, Any]) -> Loss:
    """Make a registered loss with `given` settings, and the training's margin where it has one.

    Raises:
        UnknownNameError: no such loss.
        UsageError: a setting that it does not take.
    """
    margin = {"margin": settings.margin} if hasattr(make_loss(name, **given), "margin") else {}
    return make_loss(name, **{**margin, **given})


def own_loss(loss: Loss) -> Loss:
    """Return a loss that needs no old vectors.

    Raises:
        UsageError: it needs them.
    """
    if loss.needs & _OLD:
        raise UsageError(
            f"{type(loss).__name__} needs old vectors, it is no self loss; use one such as triplet"
        )
    return loss


def tying_loss(name: str, settings: LoopSettings, given: Mapping[str, Any]) -> Loss:
    """Make the loss that ties v2 to v1; v2's own part of it is off unless `given` says otherwise.

    The self loss stands beside it with a weight of its own, on the network's own output.

    Raises:
        UsageError: it needs nothing of v1, and so ties nothing; or something that is not known.
    """
    loss = make_settled_loss(name, settings, given)
    check_needs(loss, _GIVEN)
    if not loss.needs & _OLD:
        raise UsageError(f"loss {name!r} uses no old vectors; choose one such as harmonic")
    if hasattr(loss, "self_weight") and "self_weight" not in given:
        return make_settled_loss(name, settings, {**given, "self_weight": 0.0})
    return loss


def check_losses(settings: LoopSettings) -> None:
    """Refuse a training whose losses are in the wrong place, before anything is embedded for it.

    Raises:
        UnknownNameError: no such loss.
        UsageError: no self loss or no tying loss, a setting that it does not take, or no triplets
            with `mine_every`.
    """
    own = own_loss(make_settled_loss(settings.self_loss, settings, settings.self_loss_settings))
    if not isinstance(settings, HarmonicSettings):
        offline_mining(own, settings.self_loss, settings, DEFAULT_OUTPUT)
        return
    tying = tying_loss(settings.loss, settings, settings.loss_settings)
    offline_mining(tying, settings.loss, settings, COMPATIBLE_OUTPUT)


def old_inputs(loss: Loss, old: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return what a tying loss needs to know of all old vectors: class means and radii.

    Args:
        loss: of `tying_loss`.
        old: v1's unit vectors of all training images, float32 [N, d].
        labels: the person of each, int64 [N], numbered without gaps.
    """
    if "old_means" not in loss.needs:
        return {}
    means = class_means(old, labels)
    if "old_radii" not in loss.needs:
        return {"old_means": means}
    quantile = getattr(loss, "radii_quantile", 0.0)
    return {"old_means": means, "old_radii": class_radii(old, labels, means, quantile=quantile)}


def offline_mining(
    loss: Loss, name: str, settings: LoopSettings, output: str, old: Tensor | None = None
) -> Mining | None:
    """Return how triplets for a loss are mined offline; None where `mine_every` is 0.

    Args:
        loss: what the triplets are for; its margin, strategy and combinations are mined.
        name: its registered name.
        settings: of the training.
        output: the output that it is applied to.
        old: v1's vectors of all images, float32 [N, d], if it takes them.

    Raises:
        UsageError: it takes no triplets.
    """
    if not settings.mine_every:
        return None
    if not _takes_triplets(loss):
        others = [
            other
            for other, kind in sorted(registered_losses().items())
            if _takes_triplets(kind) and bool(kind.needs & _OLD) == bool(loss.needs & _OLD)
        ]
        raise UsageError(
            f"mine_every mines triplets, and loss {name!r} takes none; set it to 0, or choose a "
            f"loss that does: {', '.join(others)}"
        )
    mined = {key: getattr(loss, key) for key in ("margin", "strategy") if hasattr(loss, key)}
    combinations = getattr(loss, "mined", None)
    if combinations is not None:
        mined["combinations"] = combinations
        mined["all_new"] = getattr(loss, "self_weight", 1) != 0
    return Mining(OfflineMiner(**mined), output, old)


def _takes_triplets(loss: Loss | type[Loss]) -> bool:
    return "triplets" in getattr(loss, "options", ())
