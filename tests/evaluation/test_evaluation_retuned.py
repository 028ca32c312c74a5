"""A report of an upgrade from retuned vectors: everything is compared with what is deployed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from segue.errors import EvaluationError, VectorError
from segue.evaluation import (
    CompatibilityReport,
    evaluate_gate,
    measure_compatibility,
    measure_upgrade,
    render_markdown,
    write_report,
)
from segue.evaluation.report import summarise

WORSE = np.random.default_rng(5).normal(size=(300, 16)) * 0.35


def retuned(data):
    """The same people; the gallery's vectors are v1's, the deployed ones are worse."""
    worse = data.v1 + WORSE[: len(data.v1)]
    worse /= np.linalg.norm(worse, axis=1, keepdims=True)
    return replace(data, status_quo=worse.astype(np.float32))


@pytest.fixture(scope="module")
def both(make):
    """Reports of the same people: from retuned vectors, with these as v1, with the deployed."""
    data, calibrating = make(people=60, seed=1), make(people=60, seed=2)
    settings = {"bootstrap": 20, "seed": 5}
    return (
        measure_compatibility(retuned(data), retuned(calibrating), **settings),
        measure_compatibility(data, calibrating, **settings),
        measure_compatibility(
            replace(data, v1=retuned(data).status_quo),
            replace(calibrating, v1=retuned(calibrating).status_quo),
            **settings,
        ),
    )


def test_v1_is_the_deployed_one_and_the_gallery_holds_the_retuned(both):
    """Self rows, differences, gains and minima are against v1; v2 meets the retuned vectors."""
    found, mapped, deployed = both
    one, two = found.row("v1"), deployed.row("v1")
    assert (one.rank1.value, one.auc) == (two.rank1.value, pytest.approx(two.auc))
    assert [p.val.value for p in one.points] == [p.val.value for p in two.points]
    for name in ("v2", "v2 -> v1", "bridge -> v1"):
        assert found.row(name).rank1.value == mapped.row(name).rank1.value
    own, other = found.row("v1 retuned"), mapped.row("v1")
    assert (own.rank1.value, own.auc) == (other.rank1.value, pytest.approx(other.auc))
    far = 1e-2
    for row in found.rows:
        above = row.at(far).val.value - deployed.row("v1").at(far).val.value
        assert row.at(far).against_v1.value == pytest.approx(above)
    assert own.at(far).against_v1.value > 0
    assert own.at(far).val.value == other.at(far).val.value
    assert found.mixed("stored")[0].rank1.value == other.rank1.value
    assert found.mixed("search")[-1].rank1.value == mapped.row("v2").rank1.value
    minimum = {(x.group, x.metric): x for x in found.backfill}["search", "rank-1"]
    assert minimum.minimum_against_v1.value == pytest.approx(
        minimum.minimum - deployed.row("v1").rank1.value
    )
    # Thresholds in use today are those of the deployed version.
    for one, two in zip(found.row("v1").deployed, deployed.row("v1").deployed, strict=True):
        assert one.threshold == pytest.approx(two.threshold)
    assert not mapped.has("v1 retuned")


def test_the_report_is_read_back_and_told(both, tmp_path):
    """JSON, Markdown, terminal and pictures know the row, and say which v1 is which."""
    found, _, _ = both
    again = CompatibilityReport.from_json(json.loads(json.dumps(found.to_json())))
    assert again.to_json() == found.to_json()
    gate = evaluate_gate(found)
    text = render_markdown(found, gate)
    assert "v1 self (status quo)" in text
    assert "v1 self, retuned" in text
    assert "v1 retuned" in summarise(found)
    assert all(path.stat().st_size for path in write_report(tmp_path / "r", found, gate))


def test_the_study_measures_it_too(make, both):
    """A mean over trainings has the same rows; the deployed version is the level."""
    data, calibrating = retuned(make(people=60, seed=1)), retuned(make(people=60, seed=2))
    figures = measure_upgrade(
        [data], [calibrating], fars=[1e-1, 1e-2], rhos=[0, 0.5, 1], bootstrap=20, seed=5
    )
    assert figures.estimate("v1 retuned rank-1").value == both[0].row("v1 retuned").rank1.value
    assert figures.estimate("v1 rank-1").value == both[0].row("v1").rank1.value
    assert figures.estimate("cross less v1 rank-1").value == pytest.approx(
        both[0].row("v2 -> v1").rank1_against_v1.value
    )


def test_what_does_not_fit_is_refused(make):
    """Other numbers of rows, and calibration people without the deployed version's vectors."""
    data = make(people=10)
    with pytest.raises(VectorError, match="status_quo has 1 rows"):
        replace(data, status_quo=data.v1[:1])
    with pytest.raises(EvaluationError, match="status quo -> status quo"):
        measure_compatibility(retuned(data), data, bootstrap=10)
    assert len(retuned(data).take(np.arange(4)).status_quo) == 4
