"""A report small enough to work out on paper: calibration, then bootstrap, then the gate.

Three people, A with images 0 and 1, B with 2 and 3, C with 4. All distances are written out below;
the vectors are made from them. The two resamples are set by hand: the first draws A twice and C
once, the second A once and B twice.
"""

from dataclasses import replace

import numpy as np
import pytest

from segue.evaluation import CompatibilityData, Estimate, evaluate_gate, measure_compatibility
from segue.evaluation.bootstrap import Resamples
from segue.evaluation.results import mixed_name

LABELS = np.array([0, 0, 1, 1, 2])

V1_SELF = {
    (0, 1): 1.82, (2, 3): 1.94,  # one person
    (0, 2): 1.86, (0, 3): 2.00, (1, 2): 2.04, (1, 3): 2.12,  # A and B
    (0, 4): 1.90, (1, 4): 2.08,  # A and C
    (2, 4): 1.96, (3, 4): 2.16,  # B and C
}  # fmt: skip

V2_TO_V1 = {  # probe by v2, stored by v1
    (0, 1): 1.84, (1, 0): 1.88, (2, 3): 1.86, (3, 2): 1.98,  # one person
    (0, 2): 1.90, (3, 0): 1.94, (2, 0): 2.00, (0, 3): 2.02,  # A and B
    (1, 2): 2.04, (1, 3): 2.06, (2, 1): 2.08, (3, 1): 2.10,
    (4, 1): 1.92, (0, 4): 2.12, (1, 4): 2.14, (4, 0): 2.16,  # A and C
    (4, 2): 2.01, (4, 3): 2.03, (2, 4): 2.18, (3, 4): 2.20,  # B and C
}  # fmt: skip

V2_SELF = {pair: round(distance - 0.01, 2) for pair, distance in V1_SELF.items()}

OFF_DIAGONAL = [(i, j) for i in range(5) for j in range(5) if i != j]
ABOVE = [(i, j) for i, j in OFF_DIAGONAL if i < j]

CALIBRATION_V1 = dict(
    zip(ABOVE, (1.82, 1.84, 1.86, 1.88, 1.91, 1.94, 1.98, 2.02, 2.06, 2.10), strict=True)
)
CALIBRATION_CROSS = {pair: round(1.81 + 0.02 * k, 2) for k, pair in enumerate(OFF_DIAGONAL)}

RESAMPLES = np.array([[2, 0, 1], [1, 2, 0]], dtype=np.float32).T


def data_of(labels, v1, cross, v2):
    """Make five images' vectors by v1 and v2 that have these distances (2 where none is given)."""
    dots = np.eye(10)
    for (i, j), distance in v1.items():
        dots[i, j] = dots[j, i] = 1 - distance / 2
    for (i, j), distance in v2.items():
        dots[5 + i, 5 + j] = dots[5 + j, 5 + i] = 1 - distance / 2
    for (i, j), distance in cross.items():
        dots[5 + i, j] = dots[j, 5 + i] = 1 - distance / 2
    vectors = np.linalg.cholesky(dots)
    return CompatibilityData(labels, vectors[:5], vectors[5:])


@pytest.fixture(scope="module")
def report():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Resamples, "draw", classmethod(lambda cls, *_: cls(RESAMPLES)))
        return measure_compatibility(
            data_of(LABELS, V1_SELF, V2_TO_V1, V2_SELF),
            data_of(np.arange(5), CALIBRATION_V1, CALIBRATION_CROSS, CALIBRATION_V1),
            fars=[2 / 3, 5 / 11, 1 / 8],
            rhos=[0, 1],
        )


def interval(value, first, second):
    """Return the 2.5 % and 97.5 % quantiles of two samples: a fortieth from each end."""
    low, high = sorted((first, second))
    return pytest.approx([value, low + (high - low) / 40, high - (high - low) / 40])


def test_first_other_people_calibrate_each_edge(report):
    """The k-th smallest of n impostors has FAR k / (n + 1) on its own edge.

    v1 self: 10 pairs, the 5th smallest is 1.91, so FAR 5/11. v2 -> v1: 20 directed pairs, the 14th
    smallest is 1.81 + 13 * 0.02 = 2.07, so FAR 14/21 = 2/3. No resample changes them.
    """
    assert report.calibrations["v1", "v1"].distance_at(5 / 11) == pytest.approx(1.91)
    assert report.calibrations["v2", "v1"].distance_at(2 / 3) == pytest.approx(2.07)


def test_then_each_resample_finds_its_own_threshold(report):
    """VAL at FAR 1/8, for everybody once and for both resamples.

    v1 self, 8 impostor pairs, so one accept: 1.86 comes in, 1.90 is refused; of the genuine 1.82
    and 1.94 one is below: VAL 1/2.
    First resample, A twice and C once: impostors are A-C alone, two pairs of weight 2 * 1, in all
    4; an eighth of it is 1/2, so none comes in: 1.90 is refused. B is not there; A's 1.82: VAL 1.
    Second, A once and B twice: four A-B pairs of weight 2, in all 8; one accept, but 1.86 weighs 2:
    refused. A's 1.82 counts once, B's 1.94 twice: VAL 1/3.

    v2 -> v1, 16 directed impostor pairs, so two accepts: 1.90 and 1.92 come in, 1.94 is refused;
    below it are 1.84, 1.88 and 1.86 of four: VAL 3/4.
    First: four A-C pairs of weight 2, in all 8, one accept, and 1.92 weighs 2: refused. A's 1.84
    and 1.88 are below: VAL 1.
    Second: eight A-B pairs of weight 2, in all 16, two accepts: 1.90 weighs 2 and comes in, 1.94
    is refused. A's two count once, both below; B's two count twice, one below: (2 + 2) / (2 + 4).
    """
    v1, cross = report.row("v1").at(1 / 8), report.row("v2 -> v1").at(1 / 8)
    assert v1.val.to_json() == interval(1 / 2, 1, 1 / 3)
    assert cross.val.to_json() == interval(3 / 4, 1, 2 / 3)
    assert (v1.accepts, v1.threshold) == (1, pytest.approx(1.90))
    assert cross.threshold == pytest.approx(1.94)


def test_differences_are_taken_within_a_resample(report):
    """Cross less v1: 3/4 - 1/2, and 1 - 1 and 2/3 - 1/3 in the resamples.

    The intervals of both overlap; that of the difference, from 1/120 on, lies above 0.
    """
    v1, cross = report.row("v1").at(1 / 8), report.row("v2 -> v1").at(1 / 8)
    assert cross.against_v1.to_json() == interval(1 / 4, 0, 1 / 3)
    assert cross.against_v1.low == pytest.approx(1 / 120)
    assert cross.val.low < v1.val.high


def test_ranks_are_of_probes_and_the_gallery_stays_whole(report):
    """v1: probe 2 has A's 1.86 before its mate's 1.94; v2: probe 3 has A's 1.94 before 1.98.

    Three of four are right either way. First resample: A's two probes, both right. Second: A's two
    count once, B's two twice, one of them right: (2 + 2) / (2 + 4). One of v1's three hits is lost
    (probe 3): in the first resample none, in the second 2 / 6.
    """
    cross = report.row("v2 -> v1")
    assert report.row("v1").rank1.to_json() == interval(3 / 4, 1, 2 / 3)
    assert cross.rank1_against_v1 == Estimate(0, 0, 0)
    assert cross.negative_flips == 1 / 4
    assert cross.negative_flips_interval.to_json() == interval(1 / 4, 0, 1 / 3)


def test_the_calibrated_threshold_stands_still_in_every_resample(report):
    """What calibration people set is judged by the report's people, and not set again.

    v1's own 1.91 for FAR 5/11 accepts 1.86 and 1.90 of 8: 1/4; of A-C alone one of two; of A-B
    alone one of four. Calibrated search with nothing migrated accepts v2 -> v1 up to 2.07: 1.90,
    1.92, 1.94, 2.00, 2.01, 2.02, 2.03, 2.04 and 2.06 of 16; of A-C 1.92 of four; of A-B six of
    eight.
    """
    frozen = next(each for each in report.row("v1").deployed if each.far == 5 / 11)
    assert frozen.realised_far.to_json() == interval(1 / 4, 1 / 2, 1 / 4)
    row = report.row(mixed_name("search", 0, calibrated=True))
    point = next(each for each in row.deployed if each.far == 2 / 3)
    assert point.threshold == pytest.approx(np.log10(2 / 3))
    assert point.realised_far.to_json() == interval(9 / 16, 1 / 4, 6 / 8)


def test_last_the_gate_reads_the_differences(report):
    """The gate looks at FAR 1e-2; taken as that, FAR 1/8 passes by the 1/120 of the difference.

    rank-1 has no difference; the tax of a v2 without a twin is unknown, so that all is NO-GO.
    """
    rows = tuple(
        replace(
            row,
            points=tuple(replace(p, far=0.01, measurable=True) for p in row.points[2:]),
            deployed=tuple(
                replace(p, far=far, measurable=False)
                for p, far in zip(row.deployed, (0.01, 0.001), strict=False)
            ),
        )
        for row in report.rows
    )
    gate = evaluate_gate(replace(report, rows=rows, fars=(0.01,)))
    cross = gate.checks[0]
    assert (cross.name, cross.passed) == ("cross above v1", True)
    assert cross.measured == pytest.approx(1 / 120)
    assert "VAL +25.0 [+0.8, +32.5] points" in cross.sentence
    assert not gate.go
    assert [c.name for c in gate.checks if "no twin" in c.sentence] == ["tax within budget"]
