"""`segue gallery` and `segue search`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from segue.cli.common import (
    agree,
    count,
    emit,
    json_option,
    open_workspace,
    progress_bar,
    table,
    yes_option,
)
from segue.errors import UnitLengthError, UsageError, VectorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.index import AppliedThreshold, Hit, Probe, Threshold
    from segue.workspace import Workspace


LEAST_SHOWN = 1e-12
"""False accept rates below this are shown as being below it."""


def threshold_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the ways in which an application states its threshold once."""
    for option in (
        click.option(
            "--extrapolate", is_flag=True, help="Allow a FAR below what calibration measured."
        ),
        click.option(
            "--for-version",
            help="The version in whose scale --distance or --cosine is; the one that the gallery "
            "was served by first if none is named.",
        ),
        click.option("--cosine", type=float, help="A cosine similarity in use today."),
        click.option("--distance", type=float, help="A squared distance in use today."),
        click.option("--false-hits", type=float, help="Expected false hits per search."),
        click.option("--far", type=float, help="A false accept rate."),
    ):
        command = option(command)
    return command


def make_threshold(
    context: click.Context,
    *,
    far: float | None,
    false_hits: float | None,
    distance: float | None,
    cosine: float | None,
    for_version: str | None,
    extrapolate: bool,
) -> Threshold | None:
    """Return the threshold that the options state, None if they state none."""
    from segue.index import Threshold

    given = [value for value in (far, false_hits, distance, cosine) if value is not None]
    if len(given) > 1:
        raise click.UsageError("give one of --far, --false-hits, --distance and --cosine")
    if for_version is not None and distance is None and cosine is None:
        raise click.UsageError("--for-version goes with --distance or --cosine")
    if extrapolate and not given:
        raise click.UsageError(
            "--extrapolate goes with --far, --false-hits, --distance or --cosine"
        )
    version = None
    if for_version is not None:
        version = open_workspace(context).registry.resolve(for_version).version
    if cosine is not None:
        return Threshold.from_cosine(cosine, version, extrapolate=extrapolate)
    if not given:
        return None
    return Threshold(
        far=far,
        false_hits=false_hits,
        distance=distance,
        version=version,
        extrapolate=extrapolate,
    )


@click.group()
def gallery() -> None:
    """Store, import, export, inspect and erase faces."""


@gallery.command("list")
@json_option
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """List the galleries and the version each serves."""
    workspace = open_workspace(context)
    rows = [
        {"gallery": name, "serving": opened.serving, "items": opened.count_items()}
        for name in workspace.galleries()
        for opened in [workspace.gallery(name)]
    ]
    emit(
        rows,
        as_json,
        lambda: (
            table(["gallery", "serving", "items"], [list(row.values()) for row in rows])
            if rows
            else "no galleries yet; make one with `segue gallery create NAME --version VERSION`"
        ),
    )


@gallery.command()
@click.argument("name")
@click.option("--version", "reference", required=True, help="NAME/NUMBER or NAME@serving.")
@click.option("--codec", type=click.Choice(["float32", "int8"]), default="float32")
@click.pass_context
def create(context: click.Context, name: str, reference: str, codec: str) -> None:
    """Create the empty gallery NAME, served by a version."""
    made = open_workspace(context).create_gallery(name, reference, codec=codec)
    click.echo(
        f"made gallery {name}, serving {made.serving}; next: `segue gallery enroll {name} DIR`"
    )


@gallery.command()
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--identity", help="The person that all of these images show.")
@click.option("--replace", is_flag=True, help="Replace items that are there already.")
@json_option
@click.pass_context
def enroll(
    context: click.Context,
    name: str,
    folder: Path,
    identity: str | None,
    replace: bool,
    as_json: bool,
) -> int:
    """Enrol the images below FOLDER; a folder inside it is the identity of its images.

    An item's id is its path below FOLDER.
    """
    with progress_bar() as progress:
        result = open_workspace(context).enroll(
            name, folder, identity=identity, replace=replace, progress=progress
        )
    failed = [{"item_id": f.item_id, "reason": f.reason} for f in result.failed]

    def text() -> str:
        lines = [f"enrolled {count(result.enrolled, 'item')} in {name}"]
        lines += [f"not enrolled: {f['item_id']}: {f['reason']}" for f in failed]
        return "\n".join(lines)

    emit({"enrolled": result.enrolled, "failed": failed}, as_json, text)
    return 1 if failed else 0


@gallery.command("import")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--version", "reference", help="The vectors' version; the serving one by default.")
@click.option("--output", default="embedding", show_default=True)
@click.option("--ids", type=click.Path(path_type=Path), help="Item ids of a .npy file, one a line.")
@click.option("--normalise", is_flag=True, help="Divide each vector by its length first.")
@click.option("--replace", is_flag=True, help="Replace items that are there already.")
@click.pass_context
def import_(
    context: click.Context,
    name: str,
    file: Path,
    reference: str | None,
    output: str,
    ids: Path | None,
    normalise: bool,
    replace: bool,
) -> None:
    """Import vectors from FILE: .parquet (item_id, vector, …), or .npy with --ids."""
    workspace = open_workspace(context)
    opened = workspace.gallery(name)
    version = workspace.registry.resolve(reference or opened.serving)
    try:
        rows = opened.import_file(
            file, version.version, output, ids=ids, normalise=normalise, replace=replace
        )
    except UnitLengthError as error:
        raise VectorError(f"{error}, or pass --normalise") from error
    click.echo(f"imported {count(rows, 'item')} into {name}")


@gallery.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--version", "reference", help="Rows of this version; each item's live row if none.")
@click.option("--output", default="embedding", show_default=True)
@click.option("--replace", is_flag=True, help="Write over files that are there.")
@click.pass_context
def export(
    context: click.Context,
    name: str,
    file: Path,
    reference: str | None,
    output: str,
    replace: bool,
) -> None:
    """Export vectors to FILE: .parquet, or .npy with a .csv of its ids beside it."""
    workspace = open_workspace(context)
    version = workspace.registry.resolve(reference).version if reference else None
    written = [file, file.with_suffix(".csv")] if file.suffix == ".npy" else [file]
    there = [path for path in written if path.exists()]
    if there and not replace:
        raise UsageError(f"{there[0]} is there already; choose another name, or pass --replace")
    rows = workspace.gallery(name).export(file, version=version, output=output)
    click.echo(f"exported {count(rows, 'row')} to {' and '.join(str(path) for path in written)}")


@gallery.command()
@click.argument("name")
@json_option
@click.pass_context
def files(context: click.Context, name: str, as_json: bool) -> None:
    """Print the Parquet files that hold the gallery, for any reader; folds fresh rows first."""
    paths = [str(path) for path in open_workspace(context).gallery(name).files()]
    emit(paths, as_json, lambda: "\n".join(paths))


@gallery.command()
@click.argument("name")
@json_option
@click.pass_context
def stats(context: click.Context, name: str, as_json: bool) -> None:
    """Show items, rows of each version, mixing ratio and bytes."""
    opened = open_workspace(context).gallery(name)
    found = opened.stats()
    value = {
        "serving": opened.serving,
        **asdict(found),
        "rows": [
            {"version": version, "output": output, "rows": rows}
            for (version, output), rows in found.rows.items()
        ],
    }

    def text() -> str:
        lines = [f"serving          {opened.serving}", f"items            {found.items}"]
        lines += [
            f"live             {live} in {version} (ρ {found.rho[version]:.2f})"
            for version, live in found.live.items()
        ]
        lines += [
            f"rows             {rows} of {version}, output {output}"
            for (version, output), rows in found.rows.items()
        ]
        lines.append(f"segments         {found.segments}, and {found.fresh} fresh rows")
        lines.append(f"bytes            {found.bytes:,}")
        if found.pending_erasures:
            lines.append(f"not yet swept    {found.pending_erasures} erased items")
        return "\n".join(lines)

    emit(value, as_json, text)


@gallery.command()
@click.argument("name")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@threshold_options
@json_option
@click.pass_context
def verify(
    context: click.Context,
    /,
    name: str,
    first: Path,
    second: Path,
    as_json: bool,
    **stated: Any,
) -> None:
    """Tell whether two images show one person, by the gallery's version and a threshold."""
    threshold = make_threshold(context, **stated)
    if threshold is None:
        raise click.UsageError("give a threshold: --far, --false-hits, --distance or --cosine")
    result = open_workspace(context).verify_images(name, first, second, threshold)
    warn_if_extrapolated(result.threshold)
    rate = "not calibrated" if result.far is None else f"FAR {result.far:.2e}"
    answer = "same" if result.same else "different"
    told = f"{answer} (squared distance {result.distance:.4f}, {rate})"
    emit(
        asdict(result),
        as_json,
        lambda: "\n".join([told, *threshold_lines(result.threshold)]),
    )


@gallery.command()
@click.argument("name")
@click.argument("item_ids", nargs=-1)
@click.option("--identity", help="Erase every item of this person.")
@yes_option
@json_option
@click.pass_context
def erase(
    context: click.Context,
    name: str,
    item_ids: tuple[str, ...],
    identity: str | None,
    yes: bool,
    as_json: bool,
) -> int:
    """Erase items for good: never served, never written again, swept from every file."""
    if bool(item_ids) == bool(identity):
        raise click.UsageError("give ITEM_IDS or --identity, one of them")
    opened = open_workspace(context).gallery(name)
    agree("erasing cannot be undone", yes=yes)
    result = opened.erase(item_ids=item_ids) if item_ids else opened.erase(identity=identity)
    swept = "erased" if result.swept else "deleted, not yet swept (run the same command again)"
    emit(asdict(result), as_json, lambda: f"{count(result.items, 'item')} {swept}")
    return 0 if result.swept else 75


@gallery.command()
@click.argument("name")
@click.argument("query")
@json_option
@click.pass_context
def sql(context: click.Context, name: str, query: str, as_json: bool) -> None:
    """Run a DuckDB query over the views `embeddings` and `live`."""
    columns, rows = open_workspace(context).gallery(name).sql(query)
    emit(
        [dict(zip(columns, row, strict=True)) for row in rows],
        as_json,
        lambda: table(columns, rows),
    )


@gallery.command()
@click.argument("name")
@click.pass_context
def compact(context: click.Context, name: str) -> None:
    """Fold fresh rows and small segments into large ones; remove files of crashed commits."""
    opened = open_workspace(context).gallery(name)
    before = opened.stats().segments
    opened.compact()
    click.echo(f"{name}: {count(before, 'segment')} became {opened.stats().segments}")


@click.command()
@click.argument("name")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("--vector", type=click.Path(path_type=Path), help="Probe vectors, .npy [N, d].")
@click.option("--version", "reference", help="The version of --vector; the serving one by default.")
@click.option("--output", default="embedding", show_default=True, help="The output of --vector.")
@click.option("-k", default=5, show_default=True, help="Hits for each probe.")
@click.option("--inline-ms", default=0, help="Re-embed old hits within the query, for so long.")
@threshold_options
@json_option
@click.pass_context
def search(
    context: click.Context,
    /,
    name: str,
    images: tuple[Path, ...],
    vector: Path | None,
    reference: str | None,
    output: str,
    k: int,
    inline_ms: int,
    as_json: bool,
    **stated: Any,
) -> None:
    """Find the nearest items of the gallery NAME to IMAGES, or to vectors."""
    if bool(images) == (vector is not None):
        raise click.UsageError("give image files or --vector FILE, one of them")
    _check_goes_with(context, vector=vector is not None)
    threshold = make_threshold(context, **stated)
    workspace = open_workspace(context)
    if vector is not None:
        probe = _read_probe(workspace, name, vector, reference, output)
        answer = workspace.gallery(name).answer(probe, k=k, threshold=threshold)
        labels = [f"{vector}[{row}]" for row in range(len(answer.hits))]
    else:
        answer = workspace.answer(
            name, images, k=k, threshold=threshold, inline_milliseconds=inline_ms
        )
        labels = [str(path) for path in images]
    found, applied = answer.hits, answer.threshold
    warn_if_extrapolated(applied)
    told = None if applied is None else asdict(applied)
    emit(
        [
            {"probe": p, "threshold": told, "hits": [asdict(h) for h in hits]}
            for p, hits in zip(labels, found, strict=True)
        ],
        as_json,
        lambda: "\n\n".join(
            [
                *(_show(p, hits) for p, hits in zip(labels, found, strict=True)),
                *threshold_lines(applied),
            ]
        ),
    )


def _check_goes_with(context: click.Context, *, vector: bool) -> None:
    """Refuse options of the other kind of probe, which would have no effect."""
    others = ("inline_ms",) if vector else ("reference", "output")
    for option in context.command.params:
        given = context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
        if option.name in others and given:
            raise click.UsageError(
                f"{option.opts[0]} goes with image files, which are embedded here"
                if vector
                else f"{option.opts[0]} goes with --vector; images are embedded by the version "
                "that the gallery serves"
            )


def _read_probe(
    workspace: Workspace, name: str, file: Path, reference: str | None, output: str
) -> Probe:
    import numpy as np

    from segue.index import Probe
    from segue.index.transfer import read_npy

    vectors = read_npy(file)
    version = workspace.registry.resolve(reference or workspace.gallery(name).serving)
    return Probe(version.version, {output: np.atleast_2d(vectors)})


def _rate(hit: Hit) -> str:
    if hit.far is None:
        return ""
    shown = f"{hit.far:.1e}" if hit.far >= LEAST_SHOWN else f"<{LEAST_SHOWN:.0e}"
    return f"{shown}{'*' if hit.extrapolated else ''}"


def warn_if_extrapolated(applied: AppliedThreshold | None) -> None:
    """Say on stderr that a threshold's FAR lies below what the calibrations' data supports."""
    if applied is None or not applied.extrapolated:
        return
    assert applied.far is not None
    stated = f"FAR {applied.far:.1e}"
    if applied.distance is not None:
        stated = f"squared distance {applied.distance:g} of {applied.version}, {stated},"
    click.echo(
        f"segue: {stated} is extrapolated: the calibration supports {applied.smallest_far:.1e} and "
        "above",
        err=True,
    )


def threshold_lines(applied: AppliedThreshold | None) -> list[str]:
    """Say for people which FAR a threshold came to, and by which version's calibration."""
    if applied is None:
        return []
    stated = "" if applied.distance is None else f"squared distance {applied.distance:g}"
    if applied.far is None:
        return [f"threshold: {stated} of {applied.version}, which is not calibrated"]
    told = f"threshold: FAR {applied.far:.1e}{' (extrapolated)' if applied.extrapolated else ''}"
    if stated:
        told += f", which {stated} is by the calibration of {applied.version}"
    return [told]


def _show(probe: str, hits: list[Hit]) -> str:
    rows = [
        [
            hit.item_id,
            hit.identity or "",
            f"{hit.distance:.4f}",
            _rate(hit),
            hit.version,
        ]
        for hit in hits
    ]
    lines = [probe]
    lines.append(
        table(["item", "identity", "distance", "far", "version"], rows) if rows else "no hits"
    )
    if any(hit.extrapolated for hit in hits):
        lines.append("* beyond what the calibration measured")
    return "\n".join(lines)
