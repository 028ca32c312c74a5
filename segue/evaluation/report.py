"""Write a compatibility report for people (Markdown, pictures) and for machines (JSON)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from segue.evaluation.gate import MORE_PEOPLE
from segue.evaluation.markdown import TITLE, headline, render_markdown
from segue.evaluation.plot_distributions import plot_distributions
from segue.evaluation.plots import plot_backfill, plot_mixed, plot_roc
from segue.evaluation.results import metric_of
from segue.files import write_durably

if TYPE_CHECKING:
    from pathlib import Path

    from segue.evaluation.bootstrap import Estimate
    from segue.evaluation.gate import GateResult
    from segue.evaluation.results import CompatibilityReport
    from segue.evaluation.subject import Subject

__all__ = ["gate_lines", "render_markdown", "summarise", "write_report"]


def write_report(
    folder: Path,
    report: CompatibilityReport,
    gate: GateResult,
    *,
    title: str = TITLE,
    note: str = "",
    remark: str = "",
    subject: Subject | None = None,
) -> tuple[Path, ...]:
    """Write report.json, report.md and their pictures into `folder`; return the paths.

    The pictures are roc.png, mixed.png, and for what the report holds of it distributions.png and
    backfill.png.

    `report.json` is the report's own JSON, which `CompatibilityReport.from_json` reads, with the
    gate's under `gate`, and what it is of. No file holds a name, an item id or a vector.

    Args:
        folder: made if missing; files of these names are replaced.
        report: of `measure_compatibility`.
        gate: of `evaluate_gate`.
        title: shown on top of everything, such as `faces/1 to faces/2`.
        note: shown under it, such as what faces were measured, and that they are synthetic.
            Pictures have room for some 250 letters of it.
        remark: what else is to be said, in report.md and report.json alone.
        subject: the versions and faces that it is of; without it a registry does not keep it.
    """
    told = {"title": title, "note": note, "remark": remark, "gate": gate.to_json()}
    value = {**report.to_json(), **told, **({} if subject is None else subject.to_json())}
    contents = {
        "report.json": json.dumps(value, indent=1, allow_nan=False).encode(),
        "report.md": render_markdown(report, gate, title=title, note=note, remark=remark).encode(),
        "roc.png": plot_roc(report, title=title, note=note),
        "mixed.png": plot_mixed(report, title=title, note=note),
    }
    if report.distributions:
        contents["distributions.png"] = plot_distributions(report, title=title, note=note)
    if report.orders:
        contents["backfill.png"] = plot_backfill(report, title=title, note=note)
    for name, content in contents.items():
        write_durably(folder / name, content)
    return tuple(folder / name for name in contents)


def gate_lines(gate: GateResult) -> list[str]:
    """Return the gate for a terminal: GO or NO-GO, then a line for each check.

    What could not be measured is told once, apart from what failed.
    """
    lines = ["GO" if gate.go else "NO-GO"]
    few = [check for check in gate.checks if check.sentence.endswith(MORE_PEOPLE)]
    lines += [
        f"{'pass' if check.passed else 'FAIL'}  {check.sentence}"
        for check in gate.checks
        if check not in few
    ]
    if few:
        lines.append(
            f"????  not measurable on so few people: {', '.join(check.name for check in few)} (100 "
            "impostor accepts from 50 pairs of people are needed: some 130 people with a few "
            "images each)"
        )
    return lines


def summarise(report: CompatibilityReport) -> str:
    """Return the report's main rows as a table for a terminal: VAL by FAR, and rank-1."""
    fars = [far for far in report.fars if report.row("v1").at(far).measurable]
    wanted = ["v1", "v1 retuned", "twin", "v2", "v2 -> v1", "v1 -> v2", "bridge -> v1"]
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
    lines += [told] if (told := headline(report)) else []
    return "\n".join(lines)


def _told(estimate: Estimate | None, scale: float, unit: str) -> str:
    if estimate is None:
        return "not measurable"
    low, value, high = (scale * x for x in (estimate.low, estimate.value, estimate.high))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]{unit}"
