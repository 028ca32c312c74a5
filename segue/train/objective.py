"""Registered losses with a training's settings applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.errors import UsageError
from segue.harmonic import make_loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segue.harmonic import Loss
    from segue.train.settings import LoopSettings

_OLD = "old_vectors"


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
    if _OLD in loss.needs:
        raise UsageError(
            f"{type(loss).__name__} needs old vectors, it is no self loss; use one such as triplet"
        )
    return loss


def tying_loss(name: str, settings: LoopSettings, given: Mapping[str, Any]) -> Loss:
    """Make the loss that ties v2 to v1; v2's own part of it is off unless `given` says otherwise.

    The self loss stands beside it with a weight of its own, on the network's own output.

    Raises:
        UsageError: it needs no old vectors, and so ties nothing.
    """
    loss = make_settled_loss(name, settings, given)
    if _OLD not in loss.needs:
        raise UsageError(f"loss {name!r} uses no old vectors; choose one such as harmonic")
    if hasattr(loss, "self_weight") and "self_weight" not in given:
        return make_settled_loss(name, settings, {**given, "self_weight": 0.0})
    return loss
