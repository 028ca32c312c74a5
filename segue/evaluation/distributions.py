"""How the scores of each edge spread, before and after calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.evaluation.bootstrap import all_pairs
from segue.evaluation.details import DISTANCE_BINS, LOWEST_SCORE, SCORE_BINS, Distribution

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.evaluation.plans import Setting
    from segue.types import Doubles, Floats


def distributions(setting: Setting) -> Iterator[Distribution]:
    """Yield the distribution of every edge; v1 -> v2 has the pairs of v2 -> v1, and its own map."""
    for probe, stored in setting.data.edges:
        pairs = all_pairs(setting.data.labels, directed=probe != stored)
        distances = setting.scores.raw(probe, stored).reshape(-1)
        scores = setting.scores.calibrated(probe, stored).reshape(-1)
        yield Distribution(
            probe,
            stored,
            genuine=_counts(distances[pairs.genuine], 0, 4, DISTANCE_BINS),
            impostor=_counts(distances[pairs.impostor], 0, 4, DISTANCE_BINS),
            genuine_scores=_counts(scores[pairs.genuine], LOWEST_SCORE, 0, SCORE_BINS),
            impostor_scores=_counts(scores[pairs.impostor], LOWEST_SCORE, 0, SCORE_BINS),
        )


def _counts(values: Floats | Doubles, low: float, high: float, bins: int) -> tuple[int, ...]:
    """Count values in even bins; what lies outside counts in the first or the last."""
    counted, _ = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    return tuple(counted.tolist())
