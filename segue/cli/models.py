"""`segue models`: register, list, show, promote, ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segue.cli.common import emit, fields, json_option, open_workspace, table
from segue.types import Preprocessing

if TYPE_CHECKING:
    from segue.registry import EdgeRow, Version


@click.group()
def models() -> None:
    """Register, list, show and promote embedding versions."""


@models.command()
@click.argument("name")
@click.option("--onnx", type=click.Path(path_type=Path), help="An ONNX file: images to vectors.")
@click.option(
    "--vectors", type=int, metavar="DIM", help="No model, only vectors of this dimension."
)
@click.option("--size", default="112x112", show_default=True, help="Input size, HEIGHTxWIDTH.")
@click.option("--mean", default="0.5,0.5,0.5", show_default=True, help="Per channel, of x/255.")
@click.option("--std", default="0.5,0.5,0.5", show_default=True, help="Per channel, of x/255.")
@click.option("--colour", type=click.Choice(["RGB", "BGR"]), default="RGB", show_default=True)
@click.option("--flip", is_flag=True, help="Average with the mirror image: twice the cost.")
@click.option("--note", default="", help="Free text kept with the version.")
@click.pass_context
def register(
    context: click.Context,
    name: str,
    onnx: Path | None,
    vectors: int | None,
    size: str,
    mean: str,
    std: str,
    colour: str,
    flip: bool,
    note: str,
) -> None:
    """Register a model that was not trained here as the next version of NAME."""
    registry = open_workspace(context).registry
    if (onnx is None) == (vectors is None):
        raise click.UsageError("give either --onnx FILE or --vectors DIMENSION")
    details = {"note": note} if note else {}
    if onnx is not None:
        height, width = _numbers(size, "x", 2, "--size")
        preprocessing = Preprocessing.from_json(
            {
                "height": int(height),
                "width": int(width),
                "mean": _numbers(mean, ",", 3, "--mean"),
                "std": _numbers(std, ",", 3, "--std"),
                "colour": colour,
                "flip": flip,
            }
        )
        version = registry.register_onnx(name, onnx, preprocessing=preprocessing, details=details)
    else:
        assert vectors is not None
        version = registry.register_vectors(name, dimension=vectors, details=details)
    click.echo(
        f"registered {version.version}, dimension {version.dimension}; "
        f"next: `segue models promote {version.version} --reason WHY`, then "
        f"`segue gallery create GALLERY --version {version.name}@serving`"
    )


def _numbers(text: str, separator: str, count: int, option: str) -> list[float]:
    try:
        values = [float(part) for part in text.lower().split(separator)]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} are no numbers", param_hint=option) from error
    if len(values) != count:
        raise click.BadParameter(
            f"give {count} numbers with {separator!r} between them", param_hint=option
        )
    return values


@models.command("list")
@click.argument("name", required=False)
@json_option
@click.pass_context
def list_(context: click.Context, name: str | None, as_json: bool) -> None:
    """List the registered versions, of NAME or all."""
    versions = open_workspace(context).registry.list(name)
    rows = [
        [
            v.version,
            v.kind,
            v.details.get("kind", ""),
            v.dimension,
            ",".join(v.aliases),
            v.created_at[:19],
        ]
        for v in versions
    ]
    header = ["version", "kind", "trained", "dimension", "aliases", "created"]
    emit(
        [_value(v) for v in versions],
        as_json,
        lambda: table(header, rows) if rows else "no versions yet; train or register one",
    )


def _value(version: Version) -> dict[str, Any]:
    return {
        "version": version.version,
        "kind": version.kind,
        "outputs": version.outputs,
        "preprocessing": version.preprocessing.to_json() if version.preprocessing else None,
        "fingerprint": version.fingerprint,
        "aliases": list(version.aliases),
        "details": version.details,
        "created_at": version.created_at,
    }


@models.command()
@click.argument("reference")
@json_option
@click.pass_context
def show(context: click.Context, reference: str, as_json: bool) -> None:
    """Show one version (NAME/NUMBER or NAME@ALIAS) and its measured edges."""
    registry = open_workspace(context).registry
    version = registry.resolve(reference)
    edges = registry.edge_rows(version.version)
    value = {
        **_value(version),
        "edges": [
            {
                "probe": edge.probe,
                "stored": edge.stored,
                "calibrated": edge.calibrated,
                "bridge": edge.bridge,
                "damage": edge.damage or None,
                "measured": edge.measured,
            }
            for edge in edges
        ],
    }

    def text() -> str:
        shown = {**_value(version), "outputs": version.outputs}
        training = shown["details"].pop("training", {})
        lines = [fields(shown)]
        if training:
            lines.append(f"training: {fields(training).replace(chr(10), '; ')}")
        return "\n".join([*lines, *map(_edge_line, edges)])

    emit(value, as_json, text)


def _edge_line(edge: EdgeRow) -> str:
    told = ["calibrated" if edge.calibrated else "not calibrated"]
    if smallest := edge.measured.get("smallest_far"):
        told[0] += f" down to FAR {smallest:.1e}"
    if edge.report:
        told[0] += f", report {edge.report}"
    told += [f"VAL {val:.3f} at FAR {far}" for far, val in edge.measured.get("val", {}).items()]
    if edge.damage:
        told.append(f"cannot be used: {edge.damage} (`segue doctor`)")
    return f"edge {edge.label}: {'; '.join(told)}"


@models.command()
@click.argument("reference")
@click.option("--alias", default="serving", show_default=True)
@click.option("--reason", required=True, help="Why; the ledger keeps it.")
@click.pass_context
def promote(context: click.Context, reference: str, alias: str, reason: str) -> None:
    """Point an alias (serving) at a version: the default for new galleries."""
    version = open_workspace(context).registry.promote(reference, reason=reason, alias=alias)
    click.echo(
        f"{version.name}@{alias} is {version.version}; galleries that exist stay as they are"
    )


@models.command()
@click.argument("subject", required=False)
@json_option
@click.pass_context
def ledger(context: click.Context, subject: str | None, as_json: bool) -> None:
    """Show who did what, when and why; entries are never changed."""
    workspace = open_workspace(context)
    entries = workspace.registry.ledger(subject)
    if subject is not None and not entries and subject not in workspace.galleries():
        entries = workspace.registry.ledger(workspace.registry.resolve(subject).version)
    rows = [[e.at[:19], e.actor, e.action, e.subject, e.reason or ""] for e in entries]
    emit(
        [
            {
                "at": e.at,
                "actor": e.actor,
                "action": e.action,
                "subject": e.subject,
                "reason": e.reason,
                "details": e.details,
            }
            for e in entries
        ],
        as_json,
        lambda: table(["at", "actor", "action", "subject", "reason"], rows),
    )
