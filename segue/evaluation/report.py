"""Write a compatibility report for people (Markdown, pictures) and for machines (JSON)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from segue.evaluation.plots import plot_mixed, plot_roc
from segue.evaluation.results import PROTOCOLS, SEARCH, STORED, far_text, metric_of
from segue.files import write_durably

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from segue.evaluation.bootstrap import Estimate
    from segue.evaluation.gate import GateResult
    from segue.evaluation.results import CompatibilityReport, Deployed, Row

TITLE = "Compatibility report"

_SELF = {
    "v1": "v1 self (status quo)",
    "twin": "twin self (independent v2)",
    "v2": "v2 self",
    "v2 -> v1": "v2 → v1",
    "v1 -> v2": "v1 → v2",
    "bridge -> v1": "best bridge → v1",
}
_GROUPS = {
    "rank merge": "rank merge (v1 and twin)",
    "bridge": "best bridge",
    SEARCH: "search",
    STORED: "stored",
}


def write_report(
    folder: Path,
    report: CompatibilityReport,
    gate: GateResult,
    *,
    title: str = TITLE,
    note: str = "",
) -> tuple[Path, ...]:
    """Write `report.json`, `report.md`, `roc.png` and `mixed.png` into `folder`; return the paths.

    `report.json` is the report's own JSON, which `CompatibilityReport.from_json` reads, with the
    gate's under `gate`. No file holds a name, an item id or a vector.

    Args:
        folder: made if missing; files of these names are replaced.
        report: of `measure_compatibility`.
        gate: of `evaluate_gate`.
        title: shown on top of everything, such as `faces/1 to faces/2`.
        note: shown under it, such as what faces were measured, and that they are synthetic.
    """
    value = {**report.to_json(), "title": title, "note": note, "gate": gate.to_json()}
    contents = {
        "report.json": json.dumps(value, indent=1, allow_nan=False).encode(),
        "report.md": render_markdown(report, gate, title=title, note=note).encode(),
        "roc.png": plot_roc(report, title=title, note=note),
        "mixed.png": plot_mixed(report, title=title, note=note),
    }
    for name, content in contents.items():
        write_durably(folder / name, content)
    return tuple(folder / name for name in contents)


def render_markdown(
    report: CompatibilityReport, gate: GateResult, *, title: str = TITLE, note: str = ""
) -> str:
    """Return the report as Markdown: verdict, tables, and how it was measured."""
    deployed = (
        "Thresholds were set on the calibration people. *Raw* keeps v1's distance; *calibrated* "
        "accepts at the same FAR of the pair's own edge. Realised FAR over target, and VAL."
    )
    parts = [
        f"# {title}",
        *([note] if note else []),
        _verdict(gate),
        "## VAL, rank-1 and mAP",
        _main_table(report),
        *_unmeasured(report),
        "![ROC](roc.png)",
        "![VAL over the mixing ratio](mixed.png)",
        "## What compatibility brings and costs",
        _gain_table(report),
        "## Over the whole migration",
        _backfill_table(report),
        "## At the deployed threshold",
        deployed,
        _deployed_table(report),
        "## More measures",
        _more_table(report),
        "## How it was measured",
        _method(report),
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(gate: GateResult) -> str:
    told = (
        "**Gate: GO.** The gallery may serve mixed from the first second."
        if gate.go
        else "**Gate: NO-GO.** Backfill first and cut over at the end, or force it with a reason."
    )
    checks = [
        f"- {'pass' if check.passed else '**FAIL**'}: {check.sentence}" for check in gate.checks
    ]
    return "\n".join([told, "", *checks])


def _shown_fars(report: CompatibilityReport) -> tuple[float, ...]:
    return tuple(far for far in report.fars if report.row("v1").at(far).measurable)


def _unmeasured(report: CompatibilityReport) -> Iterator[str]:
    missing = [f"{far_text(far)}" for far in report.fars if far not in _shown_fars(report)]
    if missing:
        yield (
            f"Not measurable here: FAR {', '.join(missing)} (fewer than 100 impostor accepts from "
            "50 pairs of people)."
        )


def _label(row: Row) -> str:
    if row.rho is None:
        return _SELF.get(row.name, row.name)
    mode = ""
    if row.group in PROTOCOLS:
        mode = ", calibrated" if row.calibrated else ", raw"
    return f"{_GROUPS[row.group]} ρ = {row.rho:g}{mode}"


def _pure_rows(report: CompatibilityReport) -> list[Row]:
    return [report.row(name) for name in _SELF if report.has(name)]


def _inner_rows(report: CompatibilityReport, *, raw: bool) -> list[Row]:
    """Return the mixed rows that are no pure row under another name."""
    found: list[Row] = []
    for group in _GROUPS:
        rows = [*report.mixed(group, calibrated=True)]
        rows += report.mixed(group, calibrated=False) if raw else []
        rows.sort(key=lambda row: (row.rho or 0.0, row.calibrated))
        found += [row for row in rows if 0 < (row.rho or 0.0) < 1]
    return found


def _main_table(report: CompatibilityReport) -> str:
    fars = _shown_fars(report)
    head = ["compared", *(f"VAL at {far_text(far)}" for far in fars), "rank-1", "mAP"]
    rows = [
        [
            _label(row),
            *(_interval(row.at(far).val) if row.at(far).measurable else "–" for far in fars),
            _interval(row.rank1),
            _interval(row.mean_average_precision),
        ]
        for row in [*_pure_rows(report), *_inner_rows(report, raw=True)]
    ]
    told = (
        "95 % intervals by bootstrap over people. At ρ = 0 *search* is v2 → v1 and *stored* is v1 "
        "self; at ρ = 1 both are v2 self. *Calibrated* replaces a distance by the FAR it has on "
        "its own edge."
    )
    return f"{told}\n\n{_table(head, rows)}"


def _gain_table(report: CompatibilityReport) -> str:
    rows = [
        [
            gain.metric,
            "–" if gain.update_gain is None else _percent(gain.update_gain),
            "–" if gain.tax is None else _points(gain.tax),
        ]
        for gain in report.gains
    ]
    told = (
        "Update gain: (v2 → v1 less v1) over (twin less v1); – where the twin is missing or not "
        "clearly above v1. Tax: twin less v2, in points."
    )
    return f"{told}\n\n{_table(['metric', 'update gain', 'tax'], rows)}"


def _backfill_table(report: CompatibilityReport) -> str:
    if not report.backfill:
        return "Needs at least two mixing ratios."
    rows = [
        [
            _GROUPS[each.group],
            each.metric,
            _interval(each.area),
            f"{_rate(each.minimum)} at ρ = {each.minimum_rho:g}",
        ]
        for each in report.backfill
    ]
    told = "Calibrated rows. The area under the backfill curve is the metric's mean over ρ."
    return f"{told}\n\n{_table(['gallery', 'metric', 'area', 'minimum'], rows)}"


def _deployed_table(report: CompatibilityReport) -> str:
    fars = _shown_fars(report)
    head = ["compared"]
    for far in fars:
        head += [f"FAR ÷ {far_text(far)}", f"VAL at {far_text(far)}"]
    shown = [report.row("v1")]
    for protocol in PROTOCOLS:
        both = [*report.mixed(protocol, calibrated=False), *report.mixed(protocol)]
        shown += sorted(both, key=lambda row: (row.rho or 0.0, row.calibrated))
    rows = []
    for row in shown:
        points = {point.far: point for point in row.deployed}
        cells = [_label(row)]
        for far in fars:
            cells += _deployed_cells(points.get(far))
        rows.append(cells)
    return _table(head, rows)


def _deployed_cells(point: Deployed | None) -> tuple[str, str]:
    if point is None or not point.measurable:
        return "–", "–"
    value, low, high = (rate / point.far for rate in point.realised_far.to_json())
    return f"{value:.2f} [{low:.2f}, {high:.2f}]", _interval(point.val)


def _more_table(report: CompatibilityReport) -> str:
    fars = _shown_fars(report)[-2:]
    head = ["compared", "AUC", "negative flips"]
    head += [f"identity-averaged VAL at {far_text(far)}" for far in fars]
    head += [f"open-set misses at {far_text(far)}" for far in fars]
    rows = [
        [
            _label(row),
            _rate(row.auc),
            _rate(row.negative_flips),
            *(_interval(row.at(far).identity_val) for far in fars),
            *(_interval(row.at(far).miss_rate) for far in fars),
        ]
        for row in [*_pure_rows(report), *_inner_rows(report, raw=False)]
    ]
    told = (
        "Negative flips: probes right at rank 1 under v1 and wrong here. Open-set misses: probes "
        "whose nearest mate is refused at that FAR;"
    )
    if not fars:
        return f"{told} no FAR is measurable here.\n\n{_table(head, rows)}"
    sizes = ", of ".join(f"{round(1 / far):,} is FAR {far_text(far)}" for far in fars)
    return f"{told} one false hit per search in a gallery of {sizes}.\n\n{_table(head, rows)}"


def _method(report: CompatibilityReport) -> str:
    return (
        f"{report.people} people kept out of training, {report.people_with_mates} with two images "
        f"or more; {report.images} images, {report.genuine_pairs:,} genuine and "
        f"{report.impostor_pairs:,} impostor pairs of images. Distances are squared L2 of unit "
        "vectors. VAL at a FAR is an exact order statistic, never interpolated. *Search*: v2 "
        "probes against a gallery of which a share ρ of the items is v2; an image is not compared "
        "with itself. *Stored*: stored images against each other, each by its live version. "
        "v2 → v1 and v1 → v2 hold the same pairs, so their VAL is the same; rank-1 is not. "
        f"Which items are migrated is one nested choice (seed {report.seed}). Intervals: "
        f"{report.bootstrap} resamples of people; a resampled person is never their own impostor; "
        "for rank-1 and mAP the probes' people are resampled and the gallery stays whole."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _rate(value: float) -> str:
    """Return a rate with three decimals and no leading zero: `.518`."""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _interval(estimate: Estimate) -> str:
    return f"{_rate(estimate.value)} [{_rate(estimate.low)}, {_rate(estimate.high)}]"


def _percent(estimate: Estimate) -> str:
    value, low, high = (100 * x for x in estimate.to_json())
    return f"{value:.0f} % [{low:.0f}, {high:.0f}]"


def _points(estimate: Estimate) -> str:
    # Adding 0.0 turns -0.0 into 0.0.
    value, low, high = (round(100 * x, 1) + 0.0 for x in estimate.to_json())
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def gate_lines(gate: GateResult) -> list[str]:
    """Return the gate for a terminal: GO or NO-GO, then a line for each check.

    What could not be measured is told once, apart from what failed.
    """
    lines = ["GO" if gate.go else "NO-GO"]
    lines += [
        f"{'pass' if check.passed else 'FAIL'}  {check.sentence}"
        for check in gate.checks
        if check.measured is not None
    ]
    unmeasured = [check.name for check in gate.checks if check.measured is None]
    if unmeasured:
        lines.append(
            f"????  not measurable on so few people: {', '.join(unmeasured)} (100 impostor accepts "
            "from 50 pairs of people are needed: some 130 people with a few images each)"
        )
    return lines


def summarise(report: CompatibilityReport) -> str:
    """Return the report's main rows as a table for a terminal: VAL by FAR, and rank-1."""
    fars = [far for far in report.fars if report.row("v1").at(far).measurable]
    wanted = ["v1", "twin", "v2", "v2 -> v1", "v1 -> v2", "bridge -> v1"]
    rows = [report.row(name) for name in wanted if report.has(name)]
    rows += [*report.mixed("search"), *report.mixed("stored")]
    heads = "".join(f"{f'VAL at {far:g}':>14}" for far in fars)
    lines = [f"{report.people} people, {report.images} images", f"{'':32}{heads}{'rank-1':>10}"]
    for row in rows:
        values = "".join(f"{row.at(far).val.value:14.3f}" for far in fars)
        lines.append(f"{row.name:32}{values}{row.rank1.value:10.3f}")
    for far in fars:
        gain = report.gain(metric_of(far))
        lines.append(
            f"at FAR {far:g}: update gain {_told(gain.update_gain, 100, ' %')}, "
            f"tax {_told(gain.tax, 100, ' points')}"
        )
    return "\n".join(lines)


def _told(estimate: Estimate | None, scale: float, unit: str) -> str:
    if estimate is None:
        return "not measurable"
    low, value, high = (scale * x for x in (estimate.low, estimate.value, estimate.high))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]{unit}"
