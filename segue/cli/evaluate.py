"""`segue evaluate`, `calibrate` and `gate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from segue.cli.common import emit, json_option, open_workspace, progress_bar, seed_option
from segue.errors import GateError, UsageError

USUAL_FAR = 1e-2
"""A calibration that does not reach down to this is warned of."""

data_option = click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Faces: DIR/people.csv with DIR/images, or DIR/PERSON/IMAGE.",
)


@click.group()
def evaluate() -> None:
    """Measure versions on people that they have not seen."""


@evaluate.command()
@click.argument("reference")
@data_option
@json_option
@click.pass_context
def verification(context: click.Context, reference: str, data: Path, as_json: bool) -> None:
    """Measure ten-fold accuracy on DATA/pairs.txt (LFW's protocol)."""
    with progress_bar() as progress:
        result = open_workspace(context).evaluate_verification(reference, data, progress)
    value = {
        "version": reference,
        "accuracy": result.accuracy,
        "standard_error": result.standard_error,
        "folds": [float(fold) for fold in result.folds],
        "thresholds": [float(threshold) for threshold in result.thresholds],
    }
    emit(
        value,
        as_json,
        lambda: (
            f"{reference}: accuracy {result.accuracy:.2%} ± {result.standard_error:.2%} "
            f"over {len(result.folds)} folds"
        ),
    )


@evaluate.command()
@click.option("--old", required=True, help="The deployed version (v1).")
@click.option("--new", required=True, help="The version to upgrade to (v2).")
@click.option("--twin", help="The independent twin; found by itself where it was trained here.")
@data_option
@click.option(
    "--old-vectors",
    type=click.Path(path_type=Path),
    help=".npz with --old's vectors of the images, if it has no model.",
)
@click.option(
    "--part", default="validation", show_default=True, help="People to measure on, or test."
)
@click.option("--bootstrap", default=200, show_default=True, help="Resamples for the intervals.")
@seed_option
@json_option
@click.pass_context
def compatibility(
    context: click.Context,
    old: str,
    new: str,
    twin: str | None,
    data: Path,
    old_vectors: Path | None,
    part: str,
    bootstrap: int,
    seed: int,
    as_json: bool,
) -> None:
    """Measure an upgrade: v1, v2 and mixed; store its edges, report and gate."""
    with progress_bar() as progress:
        result = open_workspace(context).evaluate_compatibility(
            old,
            new,
            data,
            twin=twin,
            old_vectors=old_vectors,
            part=part,
            bootstrap=bootstrap,
            seed=seed,
            progress=progress,
        )
    from segue.evaluation.report import gate_lines, summarise

    value = {
        "report": result.report.to_json(),
        "gate": result.gate.to_json(),
        "folder": str(result.folder),
        "left_out": list(result.left_out),
        "unseen": result.unseen.to_json(),
        "drawn": result.drawn,
    }
    lines = [
        summarise(result.report),
        result.unseen.sentence(),
        *([result.drawn] if result.drawn else []),
        "",
        *gate_lines(result.gate),
        f"report {result.folder / 'report.md'}, pictures beside it",
        *_left_out(result.left_out),
    ]
    emit(value, as_json, lambda: "\n".join(lines))


def _left_out(edges: tuple[str, ...]) -> list[str]:
    """Say which edges were measured and not stored, if any."""
    told = (
        f"edges left out: {', '.join(edges)}; nothing put these versions into one space "
        "(`segue train harmonic` or `segue train bridge` does); where they were trained for each "
        "other elsewhere, `segue calibrate` finds out"
    )
    return [told] if edges else []


@evaluate.command()
@click.argument("versions", nargs=-1, required=True)
@data_option
@click.option(
    "--part", default="validation", show_default=True, help="People to measure on, or test."
)
@click.option("--bootstrap", default=200, show_default=True, help="Resamples for the intervals.")
@seed_option
@click.option(
    "--save-edges",
    is_flag=True,
    help="Store the edges of versions that training or a bridge put into one space, calibrated on "
    "part calibration.",
)
@json_option
@click.pass_context
def matrix(
    context: click.Context,
    versions: tuple[str, ...],
    data: Path,
    part: str,
    bootstrap: int,
    seed: int,
    save_edges: bool,
    as_json: bool,
) -> None:
    """Measure every one of VERSIONS against every other; none is inferred."""
    with progress_bar() as progress:
        result = open_workspace(context).evaluate_matrix(
            versions,
            data,
            part=part,
            bootstrap=bootstrap,
            seed=seed,
            save_edges=save_edges,
            progress=progress,
        )
    from segue.evaluation.matrix_report import matrix_lines

    lines = [*matrix_lines(result.matrix), "", result.unseen.sentence()]
    lines.append(f"report {result.folder / 'matrix.md'}")
    if result.saved:
        lines.append(f"edges stored: {', '.join(result.saved)}")
    lines += _left_out(result.left_out)
    value = {
        "matrix": result.matrix.to_json(),
        "folder": str(result.folder),
        "saved": list(result.saved),
        "left_out": list(result.left_out),
        "unseen": result.unseen.to_json(),
    }
    emit(value, as_json, lambda: "\n".join(lines))


@click.command()
@click.argument("probe")
@click.option("--stored", help="The stored version of the edge; PROBE itself by default.")
@click.option("--data", type=click.Path(path_type=Path), help="Faces with calibration people.")
@click.option("--part", default="calibration", show_default=True)
@click.option(
    "--old-vectors",
    type=click.Path(path_type=Path),
    help=".npz with the vectors of the version that has no model.",
)
@click.option("--from-gallery", help="Use random pairs of different identities of this gallery.")
@json_option
@click.pass_context
def calibrate(
    context: click.Context,
    probe: str,
    stored: str | None,
    data: Path | None,
    part: str,
    old_vectors: Path | None,
    from_gallery: str | None,
    as_json: bool,
) -> None:
    """Map the distances of the edge PROBE -> STORED to false accept rates."""
    workspace = open_workspace(context)
    if (data is None) == (from_gallery is None):
        raise click.UsageError("give either --data DIR or --from-gallery GALLERY")
    if from_gallery is not None:
        if old_vectors is not None:
            raise click.UsageError("--old-vectors belong to --data; the gallery has its vectors")
        serving = workspace.gallery(from_gallery).serving
        if stored is not None or workspace.registry.resolve(probe).version != serving:
            raise click.UsageError(
                f"--from-gallery calibrates what the gallery serves: {serving} with itself"
            )
        value = workspace.calibrate_from_gallery(from_gallery)
    else:
        assert data is not None
        with progress_bar() as progress:
            value = workspace.calibrate(
                probe,
                data,
                stored=stored,
                part=part,
                old_vectors=old_vectors,
                progress=progress,
            )
    emit(value, as_json, lambda: _calibrated_text(value))
    if value["smallest_far"] > USUAL_FAR:
        click.echo(
            f"segue: so few people support no FAR below {value['smallest_far']:.1e}; a threshold "
            f"such as {USUAL_FAR:g} rests on extrapolation: calibrate on more people",
            err=True,
        )


def _calibrated_text(value: dict[str, Any]) -> str:
    from segue.workspace.unseen import Unseen

    told = (
        f"calibrated {value['probe']} -> {value['stored']} on {value['impostors']:,} pairs of "
        f"{value['people']} people; measured down to FAR {value['smallest_far']:.1e}, "
        "extrapolated below"
    )
    lines = [told]
    if value["unseen"] is not None:  # of a gallery's people nothing is asked
        lines.append(Unseen.from_json(value["unseen"]).sentence())
    if value.get("note"):
        lines.append(value["note"])
    return "\n".join(lines)


@click.command()
@click.option("--old", required=True, help="The deployed version (v1).")
@click.option("--new", required=True, help="The version to upgrade to (v2).")
@json_option
@click.pass_context
def gate(context: click.Context, old: str, new: str, as_json: bool) -> None:
    """Tell whether an upgrade may serve mixed; exit 5 on NO-GO."""
    from segue.evaluation.report import gate_lines

    found = open_workspace(context).registry.gate_of(old, new)
    if found.old == found.new:
        raise UsageError(f"--old and --new are the same version, {found.old}; name two versions")
    ends = f"--old {old} --new {new}"
    measure = f"`segue evaluate compatibility {ends} --data DIR`"
    if found.report is None or found.result is None:
        raise GateError(
            [f"{found.old} -> {found.new} was never measured"], f"Measure it: {measure}"
        )
    report, result = found.report, found.result
    value = {
        "go": result.go,
        "checks": result.to_json()["checks"],
        "report": str(report.path),
        "number": report.report,
        "reports": found.reports,
    }
    which = f"report {report.path}, the newest of {found.reports} of these versions"
    emit(value, as_json, lambda: "\n".join([*gate_lines(result), which]))
    if found.stale:
        raise GateError(found.stale, "Until then a gallery may only be upgraded blue-green")
    if not found.go:
        raise GateError(
            [check.name for check in result.checks if not check.passed],
            f"Take the blue-green road: `segue migrate start GALLERY --to {new} "
            "--strategy blue-green`; or override it: `--strategy mixed --force REASON` there",
        )
