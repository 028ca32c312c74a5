"""A compatibility report as Markdown, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.evaluation.canvas import picture_far
from segue.evaluation.cells import interval, maybe, percent, points, rate, table
from segue.evaluation.results import PROTOCOLS, RETUNED, SEARCH, STORED, far_text, metric_of
from segue.evaluation.roc import LEAST_ACCEPTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.evaluation.gate import GateResult
    from segue.evaluation.results import CompatibilityReport, Deployed, Row

TITLE = "Compatibility report"

_SELF = {
    "v1": "v1 self (status quo)",
    RETUNED: "v1 self, retuned",
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


def render_markdown(
    report: CompatibilityReport,
    gate: GateResult,
    *,
    title: str = TITLE,
    note: str = "",
    remark: str = "",
) -> str:
    """Return the report as Markdown: verdict, tables, and how it was measured."""
    deployed = (
        "Thresholds were set on the calibration people. *Raw* keeps v1's distance; *calibrated* "
        "accepts at the same FAR of the pair's own edge. Realised FAR over target, and VAL."
    )
    parts = [
        f"# {title}",
        *(told for told in (note, remark) if told),
        _verdict(report, gate),
        "## VAL, rank-1 and mAP",
        _main_table(report),
        *_unmeasured(report),
        "![ROC](roc.png)",
        "![VAL and rank-1 over the mixing ratio](mixed.png)",
        "## What compatibility brings and costs",
        _gain_table(report),
        "## Over the whole migration",
        _backfill_table(report),
        *_orders(report),
        "## At the deployed threshold",
        deployed,
        _deployed_table(report),
        *_calibrated(report),
        *_open_set(report),
        *_distributions(report),
        "## More measures",
        _more_table(report),
        "## How it was measured",
        _method(report),
    ]
    return "\n\n".join(parts) + "\n"


def headline(report: CompatibilityReport) -> str:
    """Return in one sentence what the upgrade brings and costs; empty where no FAR is measurable.

    At the FAR that the pictures are drawn at: 1e-2, if it is measurable.
    """
    far = picture_far(report)
    point = report.row("v2 -> v1").at(far)
    if not (point.measurable and report.row("v1").at(far).measurable):
        return ""
    gain = report.gain(metric_of(far))
    told = f"At FAR {far_text(far)}, v2 → v1 has {100 * point.against_v1.value:+.1f} points of VAL"
    told += " against v1 self"
    if gain.update_gain is not None:
        told += f"; update gain {100 * gain.update_gain.value:.0f} %"
    if gain.tax is not None:
        told += f"; tax {round(100 * gain.tax.value, 1) + 0.0:+.1f} points"
    return f"{told}."


def _verdict(report: CompatibilityReport, gate: GateResult) -> str:
    told = (
        "**Gate: GO.** The gallery may serve mixed from the first second."
        if gate.go
        else "**Gate: NO-GO.** Backfill first and cut over at the end, or force it with a reason."
    )
    checks = [
        f"- {'pass' if check.passed else '**FAIL**'}: {check.sentence}" for check in gate.checks
    ]
    return "\n".join([f"{told} {headline(report)}".rstrip(), "", *checks])


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
            *(interval(row.at(far).val) if row.at(far).measurable else "–" for far in fars),
            interval(row.rank1),
            interval(row.mean_average_precision),
        ]
        for row in [*_pure_rows(report), *_inner_rows(report, raw=True)]
    ]
    told = (
        "95 % intervals by bootstrap over people. At ρ = 0 *search* is v2 → v1 and *stored* is v1 "
        "self; at ρ = 1 both are v2 self. *Calibrated* replaces a distance by the FAR it has on "
        "its own edge."
    )
    return f"{told}\n\n{table(head, rows)}"


def _gain_table(report: CompatibilityReport) -> str:
    rows = [
        [
            gain.metric,
            "–" if gain.update_gain is None else percent(gain.update_gain),
            "–" if gain.tax is None else points(gain.tax),
        ]
        for gain in report.gains
    ]
    told = (
        "Update gain: (v2 → v1 less v1) over (twin less v1); – where the twin is missing or not "
        "clearly above v1. Tax: twin less v2, in points."
    )
    return f"{told}\n\n{table(['metric', 'update gain', 'tax'], rows)}"


def _backfill_table(report: CompatibilityReport) -> str:
    if not report.backfill:
        return "Needs at least two mixing ratios."
    rows = [
        [
            _GROUPS[each.group],
            each.metric,
            interval(each.area),
            f"{rate(each.minimum)} at ρ = {each.minimum_rho:g}",
            "–" if each.minimum_against_v1 is None else points(each.minimum_against_v1),
        ]
        for each in report.backfill
    ]
    told = (
        "Calibrated rows, items migrated in random order. The area under the backfill curve is the "
        "metric's mean over ρ; the last column compares its lowest point with v1 self, in points."
    )
    head = ["gallery", "metric", "area", "minimum", "minimum less v1"]
    return f"{told}\n\n{table(head, rows)}"


def _orders(report: CompatibilityReport) -> Iterator[str]:
    if not report.orders:
        return
    inner = [rho for rho in report.rhos if 0 < rho < 1]
    head = ["order", "gallery", "metric", *(f"ρ = {rho:g}" for rho in inner), "area"]
    rows = []
    for curve in report.orders:
        values = dict(zip(curve.rhos, curve.values, strict=True))
        less = curve.less_rank_merge
        cells = [curve.order, _GROUPS[curve.group], curve.metric]
        cells += [interval(values[rho]) for rho in inner]
        rows.append([*cells, interval(curve.area), "–" if less is None else points(less)])
    yield "### By the order of migrating"
    yield (
        "*Oldest*: as the images were given. *Touched*: every image probes once, in seeded order, "
        "and its ten nearest items go first; the rest follow at random. *Farthest* from the mean "
        "of their person's v1 vectors; people with one image come last. The rank merge embeds "
        "every query by two models; the last column is search's area less its area in the same "
        "order, in points."
    )
    yield table([*head, "less rank merge"], rows)
    yield "![Backfill curves](backfill.png)"


def _open_set(report: CompatibilityReport) -> Iterator[str]:
    if not report.open_set:
        return
    measured = {(each.row, each.far): each.miss_rate for each in report.open_set}
    settings: dict[float, list[str]] = {}
    for each in report.open_set:
        if each.row == "v1":
            settings.setdefault(each.far, []).append(f"{each.false_hits:g} in {each.size:,}")
    shown = [far for far in settings if measured["v1", far] is not None]
    missing = ", ".join(
        f"{far_text(far)} ({settings[far][0]})"
        for far in sorted(settings, reverse=True)
        if far not in shown
    )
    largest = report.impostor_pairs // LEAST_ACCEPTS
    yield "## Open-set search"
    yield (
        "Misses: probes whose nearest mate is refused, at stated false hits per search in a "
        "gallery of n items (`1 in 1,000`: one of a stranger, on average, among 1,000 items). The "
        "threshold is that of FAR = false hits ÷ n. So many impostor pairs support one false hit "
        f"per search in up to {largest:,} items. Not measurable here: "
        f"{f'thresholds of FAR {missing}' if missing else 'nothing'}."
    )
    if shown:
        head = ["compared", *(" or ".join(settings[far]) for far in shown)]
        names = dict.fromkeys(each.row for each in report.open_set)
        yield table(
            head,
            [
                [_label(report.row(name)), *(maybe(measured[name, far]) for far in shown)]
                for name in names
                if report.row(name).rho not in {0, 1}  # pure rows under another name
            ],
        )


def _distributions(report: CompatibilityReport) -> Iterator[str]:
    if report.distributions:
        yield "## Distributions of the scores"
        yield (
            "Each edge on the report's people, by distance and by the FAR that the calibration "
            "people gave it. One distance is another FAR on every edge; one FAR is the same."
        )
        yield "![Distributions of the scores](distributions.png)"


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
    return table(head, rows)


def _calibrated(report: CompatibilityReport) -> Iterator[str]:
    """Say down to which FAR each edge is calibrated, and which shown thresholds are below it."""
    if not report.calibrations:
        return
    edges = [
        f"{probe} → {stored} {calibration.smallest_far:.1e}"
        for (probe, stored), calibration in report.calibrations.items()
    ]
    told = (
        "Smallest FAR that the calibration people support (100 pairs of images and 50 pairs of "
        f"people accepted): {', '.join(edges)}."
    )
    below = [far_text(far) for far in _shown_fars(report) if not report.supports(far)]
    if below:
        told += f" Thresholds for FAR {', '.join(below)} are extrapolated below it."
    yield told


def _deployed_cells(point: Deployed | None) -> tuple[str, str]:
    if point is None or not point.measurable:
        return "–", "–"
    value, low, high = (rate / point.far for rate in point.realised_far.to_json())
    return f"{value:.2f} [{low:.2f}, {high:.2f}]", interval(point.val)


def _more_table(report: CompatibilityReport) -> str:
    fars = _shown_fars(report)[-2:]
    head = ["compared", "AUC", "negative flips"]
    head += [f"identity-averaged VAL at {far_text(far)}" for far in fars]
    rows = [
        [
            _label(row),
            rate(row.auc) if row.auc_interval is None else interval(row.auc_interval),
            rate(row.negative_flips)
            if row.negative_flips_interval is None
            else interval(row.negative_flips_interval),
            *(interval(row.at(far).identity_val) for far in fars),
        ]
        for row in [*_pure_rows(report), *_inner_rows(report, raw=False)]
    ]
    told = (
        "Negative flips: probes right at rank 1 under v1 and wrong here. Identity-averaged VAL "
        "gives each person the same say."
    )
    return f"{told}\n\n{table(head, rows)}"


def _method(report: CompatibilityReport) -> str:
    return (
        f"{report.people} people, {report.people_with_mates} with two images "
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
