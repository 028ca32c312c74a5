"""What an upgrade must show, each line with what was measured and whether it is enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.evaluation.results import PROTOCOLS, RANK1, RANK_MERGE, far_text, metric_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from segue.evaluation.bootstrap import Estimate
    from segue.evaluation.upgrade import Figure, UpgradeFigures

OPERATING, LOW = metric_of(1e-2), metric_of(1e-3)
MOST_REALISED, MOST_REALISED_BOUND = 1.5, 2.5


def targets(figures: UpgradeFigures) -> Iterator[tuple[str, str, bool]]:
    """Yield what is wanted, what was measured, and whether it is enough.

    What was not measured is left out; a gain that has no meaning, as the twin is not clearly above
    v1, is not enough.
    """
    for wanted, name, enough in _wanted(figures):
        if name in figures.figures:
            found = figures.estimate(name)
            value = f"{100 * found.value:+.1f}{spread(figures.figure(name))}"
            told = f"{value} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
            yield wanted, told, enough(found)
        elif name.startswith("update gain") and f"cross less v1 {OPERATING}" in figures.figures:
            yield wanted, "none: the twin is not clearly above v1", False
    for far in figures.fars:
        worst = figures.worst_realised(far)
        yield (
            f"realised FAR at {far_text(far)} at most 1.5 ×, its upper bound at most 2.5 ×",
            f"{worst.value:.2f} × [{worst.low:.2f}, {worst.high:.2f}]",
            worst.value <= MOST_REALISED and worst.high <= MOST_REALISED_BOUND,
        )


def spread(figure: Figure) -> str:
    """Return ` ± ` and the standard deviation over seeds, in percent; nothing for one seed."""
    values = figure.by_seed[~np.isnan(figure.by_seed)]
    return f" ± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else ""


def _wanted(figures: UpgradeFigures) -> Iterator[tuple[str, str, Callable[[Estimate], bool]]]:
    """Yield what is wanted, the figure that tells, and what is enough of it."""
    metrics = [*map(metric_of, figures.fars), RANK1]
    name = f"twin less v1 {OPERATING}"
    yield f"twin at least 10 points above v1, {OPERATING}", name, lambda x: x.value >= 0.1
    name = f"cross less v1 {OPERATING}"
    yield f"v2 → v1 above v1, interval above 0, {OPERATING}", name, lambda x: x.low > 0
    name = f"update gain {OPERATING}"
    yield f"update gain at least 40 %, {OPERATING}", name, lambda x: x.value >= 0.4
    for metric in (LOW, RANK1):
        yield f"v2 → v1 at least v1, {metric}", f"cross less v1 {metric}", _not_below
    name = f"tax {OPERATING}"
    yield f"tax at most 2 points, upper bound, {OPERATING}", name, lambda x: x.high <= 0.02
    for group in PROTOCOLS:
        for metric in metrics:
            name = f"{group} minimum less v1 {metric}"
            yield f"no ρ below v1, {group}, calibrated, {metric}", name, _not_below
    for metric in metrics:
        name = f"search area less {RANK_MERGE} {metric}"
        yield f"area at least rank merge's, {metric}", name, _not_below


def _not_below(found: Estimate) -> bool:
    return found.value >= 0
