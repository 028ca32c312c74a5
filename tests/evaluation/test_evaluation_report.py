"""The report in Markdown, JSON and pictures."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segue.errors import EvaluationError
from segue.evaluation import (
    CompatibilityReport,
    Estimate,
    GateResult,
    evaluate_gate,
    measure_compatibility,
    render_markdown,
    write_report,
)
from segue.evaluation.canvas import STYLES, canvas
from segue.evaluation.markdown import headline
from segue.evaluation.plot_distributions import plot_distributions
from segue.evaluation.plots import plot_backfill, plot_mixed, plot_roc
from segue.evaluation.report import gate_lines
from segue.evaluation.results import far_text
from segue.harmonic.calibration import Calibration
from segue.synthetic import NOTICE

TOLD = {"note": "drawn", "remark": "Of three bridges the best."}


@pytest.fixture(scope="module")
def folder(report, tmp_path_factory):
    target = tmp_path_factory.mktemp("reports") / "one"
    write_report(target, report, evaluate_gate(report), title="faces/1 to faces/2", **TOLD)
    return target


def table(text, heading):
    """Return the cells of the table under a heading, row by row."""
    part = text.split(f"## {heading}")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if "---" not in row[0]]


PICTURES = ("backfill.png", "distributions.png", "mixed.png", "roc.png")


def test_the_files_are_written(folder):
    """JSON, Markdown and four pictures, all of them shown; nothing temporary stays."""
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted([*PICTURES, "report.json", "report.md"])
    text = (folder / "report.md").read_text()
    assert all(f"]({name})" in text for name in PICTURES)


def test_the_json_file_is_the_report_and_the_gate(folder, report):
    """Both are read back from `report.json`."""
    value = json.loads((folder / "report.json").read_text())
    assert CompatibilityReport.from_json(value) == report
    assert GateResult.from_json(value["gate"]) == evaluate_gate(report)
    assert value["title"] == "faces/1 to faces/2"
    assert {name: value[name] for name in TOLD} == TOLD


def test_the_main_table_has_every_way_to_compare(folder, report):
    """Each row is there once, with a value and interval in each measurable column."""
    text = (folder / "report.md").read_text()
    head, *rows = table(text, "VAL, rank-1 and mAP")
    assert head == ["compared", "VAL at 1e-1", "VAL at 1e-2", "rank-1", "mAP"]
    labels = [row[0] for row in rows]
    assert labels[:6] == [
        "v1 self (status quo)",
        "twin self (independent v2)",
        "v2 self",
        "v2 → v1",
        "v1 → v2",
        "best bridge → v1",
    ]
    assert "search ρ = 0.25, raw" in labels
    assert "stored ρ = 0.75, calibrated" in labels
    assert "rank merge (v1 and twin) ρ = 0.5" in labels
    assert len(labels) == len(set(labels)) == 6 + 3 * 6
    assert all(len(row) == len(head) for row in rows)
    val = report.row("v1").at(0.01).val
    cells = [f"{x:.3f}"[1:] for x in val.to_json()]
    assert rows[0][2] == f"{cells[0]} [{cells[1]}, {cells[2]}]"


def test_the_text_tells_the_verdict_and_its_reasons(folder, report):
    """GO or NO-GO comes first, each check with its sentence."""
    text = (folder / "report.md").read_text()
    gate = evaluate_gate(report)
    assert f"**Gate: {'GO' if gate.go else 'NO-GO'}.**" in text
    for check in gate.checks:
        assert check.sentence in text
    assert text.startswith("# faces/1 to faces/2\n\ndrawn\n\nOf three bridges the best.\n")


def test_the_head_tells_what_it_brings_and_costs(folder, report, make):
    """Difference to v1, gain and tax stand beside the verdict; not where nothing is measurable."""
    point, gain = report.row("v2 -> v1").at(0.01), report.gain("VAL@1e-2")
    told = (
        f"At FAR 1e-2, v2 → v1 has {100 * point.against_v1.value:+.1f} points of VAL against v1 "
        f"self; update gain {100 * gain.update_gain.value:.0f} %; "
        f"tax {100 * gain.tax.value:+.1f} points."
    )
    assert headline(report) == told
    verdict = (folder / "report.md").read_text().split("**Gate")[1].splitlines()[0]
    assert verdict.endswith(told)
    few = make(people=3, images=2, singles=0, twin=False)
    report = measure_compatibility(few, make(seed=2, twin=False), rhos=[0], bootstrap=10)
    assert headline(report) == ""


def test_the_text_tells_how_far_down_each_edge_is_calibrated(folder, report):
    """Every edge's smallest supported FAR stands there; thresholds below them are marked."""
    text = (folder / "report.md").read_text()
    for (probe, stored), calibration in report.calibrations.items():
        assert f"{probe} → {stored} {calibration.smallest_far:.1e}" in text
    assert report.supported_far > 1e-2
    assert "Thresholds for FAR 1e-2 are extrapolated below it." in text
    many = np.random.default_rng(0).normal(2, 0.2, 20_000)
    fine = Calibration.fit(many, people_pairs=20_000, people=201)
    edges = dict.fromkeys(report.calibrations, fine)
    told = render_markdown(replace(report, calibrations=edges), evaluate_gate(report))
    assert "v2 → v1 5.0e-03" in told
    assert "extrapolated below it" not in told


def test_every_order_stands_beside_its_rank_merge(folder, report):
    """Orders, metrics and both galleries, each with its area, and search with the difference."""
    text = (folder / "report.md").read_text().split("### By the order of migrating")[1]
    rows = [line for line in text.split("![")[0].splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(report.orders) == 4 * 2 * 2
    assert sum(row.endswith(" – |") for row in rows) == 8


def test_open_set_figures_say_what_is_not_measurable(folder):
    """Only supported galleries have a column; of the others each FAR is named once."""
    text = (folder / "report.md").read_text()
    head, *rows = table(text, "Open-set search")
    assert head == ["compared", "10 in 1,000"]
    assert "Not measurable here: thresholds of FAR 1e-3 (1 in 1,000), 1e-4 (0.1 in 1,000)" in text
    assert text.count("in 100,000)") == 1
    assert [rows[0][0], rows[2][0]] == ["v1 self (status quo)", "v2 self"]


def test_a_gate_tells_too_few_people_apart_from_a_missing_twin(make):
    """Without a twin the tax fails for its own reason, whatever else is not measurable."""
    data = [make(twin=False, seed=seed) for seed in (1, 2)]
    lines = gate_lines(evaluate_gate(measure_compatibility(*data, bootstrap=10)))
    assert any(line.startswith("FAIL  the tax is unknown: no twin") for line in lines)
    assert lines[-1].startswith("????  not measurable on so few people: cross above v1")


def test_what_is_not_measurable_is_said(folder):
    """FARs without support are named and have no column."""
    text = (folder / "report.md").read_text()
    assert "Not measurable here: FAR 1e-3, 1e-4" in text
    assert "VAL at 1e-4" not in text


def test_every_table_is_whole(folder):
    """All rows of a table have as many cells as its head."""
    text = (folder / "report.md").read_text()
    for heading in (
        "What compatibility brings and costs",
        "Over the whole migration",
        "At the deployed threshold",
        "Open-set search",
        "More measures",
    ):
        parts = text.split(f"## {heading}")[1].split("\n## ")[0].split("\n\n")
        tables = [part.splitlines() for part in parts if part.startswith("| ")]
        assert tables
        for head, *rows in tables:
            assert len(rows) > 1
            assert {row.count("|") for row in rows} == {head.count("|")}


def test_pictures_are_large_enough_to_print(folder):
    """All pictures are PNGs more than 1,200 pixels wide."""
    for name in PICTURES:
        with Image.open(folder / name) as picture:
            assert picture.format == "PNG"
            assert picture.width >= 1200
            assert "Software" not in picture.info


def test_a_picture_has_room_for_its_note():
    """What a report says of a bridged upgrade of a retuned version is whole on the narrowest."""
    note = (
        "v1 is faces/1~b1, the retuned faces/1. v2 is compared with v1 through a bridge. "
        f"Measured on {NOTICE}. People of part validation, calibrated on part calibration; "
        "twin faces-twin/1"
    )
    figure, _ = canvas((9.6, 7.2), (1, 1), "Compatibility of faces/2 with faces/1~b1", note)
    told = figure.get_suptitle().split("\n", 1)[1]
    assert told.replace("\n", " ") == note


def test_the_same_report_draws_the_same_bytes(report):
    """A picture depends on nothing but its report."""
    for plot in (plot_roc, plot_distributions):
        assert plot(report, title="a") == plot(report, title="a")


def test_a_report_of_older_parts_is_still_written(tmp_path):
    """A report written before orders, open-set and distributions lacks their pictures, no more."""
    value = json.loads((Path(__file__).parent / "golden" / "report-1.json").read_text())
    report = CompatibilityReport.from_json(value)
    assert report.row("v1").auc_interval is None
    assert report.backfill[0].minimum_against_v1 is None
    gate = evaluate_gate(replace(report, rows=tuple(map(with_fars, report.rows))))
    write_report(tmp_path, report, gate)
    assert not (tmp_path / "backfill.png").exists()
    assert "Open-set" not in (tmp_path / "report.md").read_text()
    for plot in (plot_distributions, plot_backfill):
        with pytest.raises(EvaluationError, match="evaluate again"):
            plot(report, title="none")


def with_fars(row):
    """Give a row the FARs that the gate reads, as not measurable."""
    if not row.deployed:
        return row
    points = [replace(row.deployed[0], far=far, measurable=False) for far in (0.01, 0.001)]
    return replace(row, deployed=(*row.deployed, *points))


def test_no_two_kinds_share_a_style():
    """Colour, dashes and mark differ between kinds, but for one bridge's two rows."""
    kinds = {name: style for name, style in STYLES.items() if name != "bridge"}
    for part in ("colour", "dashes", "marker"):
        assert len({str(getattr(style, part)) for style in kinds.values()}) == len(kinds)


def test_a_report_without_a_twin_or_mixture_is_still_written(make, tmp_path):
    """Pure rows alone make a report; the picture over rho shows single points."""
    report = measure_compatibility(
        make(twin=False), make(twin=False, seed=2), rhos=[1], bootstrap=10
    )
    gate = evaluate_gate(report)
    assert not gate.go
    write_report(tmp_path, report, gate)
    text = render_markdown(report, gate)
    assert "NO-GO" in text
    assert "at least two mixing ratios" in text


def test_too_few_impostors_for_a_curve_are_told(make):
    """Without one measurable FAR there is no ROC to draw."""
    data = make(people=3, images=2, singles=0, twin=False)
    report = measure_compatibility(data, make(seed=2, twin=False), rhos=[0], bootstrap=10)
    with pytest.raises(EvaluationError, match="more people"):
        plot_roc(report, title="none")
    assert plot_mixed(report, title="points")[:4] == b"\x89PNG"


@pytest.mark.parametrize(("far", "text"), [(0.1, "1e-1"), (0.0025, "2.5e-3"), (1.0, "1e0")])
def test_rates_are_written_as_people_write_them(far, text):
    """No padded exponents, no lost digits."""
    assert far_text(far) == text


def test_measuring_loads_neither_torch_nor_matplotlib():
    """Importing the room is light: pictures load matplotlib when they are drawn."""
    heavy = "{'torch', 'matplotlib', 'scipy', 'mlflow', 'sklearn', 'faiss', 'duckdb'}"
    code = f"import sys, segue.evaluation; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_difference_of_nothing_has_no_minus_sign(make):
    """Rounded to 0.0, a tiny negative difference is written +0.0."""
    data = make(people=60, seed=1)
    report = measure_compatibility(data, data, rhos=[0.5], bootstrap=10)
    gains = tuple(replace(gain, tax=Estimate(-1e-9, -1e-6, 1e-9)) for gain in report.gains)
    report = replace(report, gains=gains)
    text = render_markdown(report, evaluate_gate(report))
    assert "+0.0 [+0.0, +0.0]" in text
    assert "-0.0 " not in text
    assert "-0.0," not in text
