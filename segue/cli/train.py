"""`segue train base`, `harmonic`, `bridge` and `retune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segue.cli.common import emit, json_option, open_workspace, progress_bar, seed_option, table
from segue.cli.evaluate import data_option
from segue.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.registry import Version
    from segue.train import HarmonicSettings
    from segue.workspace import Workspace
    from segue.workspace.bridging import TrainedBridge
    from segue.workspace.retuning import Retuned

precision_option = click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the trunk in training; bfloat16 is up to twice as fast.",
)


@click.group()
def train() -> None:
    """Train a version, one harmonic with an old version, or a map of vectors.

    A killed training goes on when the same command is run again.
    """


@train.command()
@click.argument("name")
@data_option
@click.option("--old-only", is_flag=True, help="Only the half of the people marked v1.")
@click.option("--architecture", default="small", show_default=True)
@click.option("--width", default=16, show_default=True, help="Channels of the first stage.")
@click.option("--dimension", default=64, show_default=True, help="Length of the embedding.")
@click.option("--image-size", default=64, show_default=True, help="Pixels a side.")
@click.option("--steps", default=600, show_default=True, help="Batches.")
@click.option("--learning-rate", type=float, help="Peak step size.")
@seed_option
@click.option("--threads", default=0, show_default=True, help="CPU threads; 0 is all.")
@precision_option
@json_option
@click.pass_context
def base(
    context: click.Context, /, name: str, data: Path, old_only: bool, as_json: bool, **given: Any
) -> None:
    """Train a network of its own space on part `train`, register it as the next NAME."""
    from segue.train import TrainSettings

    settings = TrainSettings(**{key: value for key, value in given.items() if value is not None})
    workspace = open_workspace(context)
    with progress_bar() as progress:
        version = workspace.train_base(name, data, settings, old_only=old_only, progress=progress)
    advice = f"next: `segue models promote {version.version} --reason WHY` if it is to serve"
    emit(_value(version), as_json, lambda: f"{_line(version)}\n{advice}")


@train.command()
@data_option
@click.option("--old", required=True, help="The deployed version whose vectors stay (v1).")
@click.option("--from", "start", required=True, help="The independent new version to start from.")
@click.option("--old-vectors", type=click.Path(path_type=Path), help=".npz with v1's vectors.")
@click.option(
    "--recipe",
    type=click.Choice(["segue", "paper"]),
    default="segue",
    show_default=True,
    help="Where every setting that is not given comes from; paper: FaceNet's.",
)
@click.option("--loss", help="A registered loss that ties v2 to v1.")
@click.option(
    "--loss-setting",
    "loss_settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of that loss, a JSON value or text; as often as needed.",
)
@click.option("--cross-weight", type=float, help="Of that loss.")
@click.option("--self-weight", type=float, help="Of the self loss beside it.")
@click.option(
    "--separate-head/--shared-head",
    default=None,
    help="Compare v1 with an output of its own, or with the one output, drawn anew first.",
)
@click.option("--head-dropout", type=float, help="Share of features a separate head lacks.")
@click.option(
    "--own-contrast", type=float, help="Weight of v1's tie to v2's own output; 0 leaves it free."
)
@click.option("--head-steps", type=int, help="Optimiser steps of the stage of the heads alone.")
@click.option(
    "--head-images", type=int, help="Images embedded once for it; 0 embeds each batch anew."
)
@click.option("--steps", type=int, help="Batches of the stage of the whole network.")
@click.option("--learning-rate", type=float, help="Peak step size of it.")
@click.option(
    "--mine-every", type=int, help="Batches between two offline minings; 0 mines in each batch."
)
@precision_option
@seed_option
@click.option("--threads", default=0, show_default=True, help="CPU threads; 0 is all.")
@click.option(
    "--twin/--no-twin", default=True, help="Train the twin that the report compares with."
)
@json_option
@click.pass_context
def harmonic(
    context: click.Context,
    /,
    data: Path,
    old: str,
    start: str,
    old_vectors: Path | None,
    twin: bool,
    as_json: bool,
    recipe: str,
    loss_settings: Sequence[str],
    **given: Any,
) -> None:
    """Train --from on, against the frozen vectors of --old, in two stages; and its twin."""
    settings = _settings(recipe, loss_settings, given)
    workspace = open_workspace(context)
    if not settings.separate_head:
        _tell_dimensions(workspace, old, start, asked=given["separate_head"] is False)
    with progress_bar() as progress:
        made, other = workspace.train_harmonic(
            data,
            settings,
            old=old,
            start=start,
            old_vectors=old_vectors,
            twin=twin,
            progress=progress,
        )
    versions = [made] if other is None else [made, other]
    advice = (
        f"next: `segue evaluate compatibility --old {old} --new {made.version} "
        f"{_sources(data, old_vectors)}`"
    )
    emit(
        [_value(version) for version in versions],
        as_json,
        lambda: "\n".join([*(_line(version) for version in versions), advice]),
    )


def _settings(recipe: str, loss_settings: Sequence[str], given: dict[str, Any]) -> HarmonicSettings:
    """Return a recipe's settings, with those that were given in their place."""
    from segue.train import FACENET_STAGES, HarmonicSettings, paper_settings

    chosen = {name: value for name, value in given.items() if value is not None}
    if chosen.get("separate_head") is False:
        chosen = {**FACENET_STAGES, **chosen}
    settings = {**chosen, "loss_settings": _named_values(loss_settings)}
    return paper_settings(**settings) if recipe == "paper" else HarmonicSettings(**settings)


def _tell_dimensions(workspace: Workspace, old: str, start: str, *, asked: bool) -> None:
    """Say that v1 is compared with through a head of its own where the dimensions differ.

    Raises:
        UsageError: the shared head was `asked` for by name.
    """
    before, after = (workspace.registry.resolve(each) for each in (old, start))
    if before.dimension == after.dimension:
        return
    told = (
        f"{before.version} has dimension {before.dimension}, {after.version} {after.dimension}: "
        "one output cannot be compared with both"
    )
    if asked:
        raise UsageError(
            f"{told}; leave out --shared-head, or start from a version of dimension "
            f"{before.dimension} (`segue train base --dimension {before.dimension}`)"
        )
    click.echo(f"segue: {told}, so v1 gets a separate head", err=True)


def _named_values(written: Sequence[str]) -> dict[str, Any]:
    """Read `NAME=VALUE`, each value JSON or else text.

    Raises:
        UsageError: no such pair, or a name twice.

    >>> _named_values(["temperature=0.1", "shared=false", "negatives=old"])
    {'temperature': 0.1, 'shared': False, 'negatives': 'old'}
    """
    found: dict[str, Any] = {}
    for each in written:
        name, equals, value = each.partition("=")
        if not (name and equals and value) or name in found:
            raise UsageError(f"--loss-setting {each!r}: write NAME=VALUE, each name once")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


@train.command()
@data_option
@click.option("--old", required=True, help="The deployed version (v1).")
@click.option("--new", required=True, help="The version to upgrade to (v2).")
@click.option(
    "--kind",
    default="best",
    show_default=True,
    help="procrustes, ridge, low_rank or mlp; best: the one that does best on held-out people.",
)
@click.option(
    "--direction",
    default="new-to-old",
    show_default=True,
    help="Map v2's probes for v1's vectors; old-to-new: v1's probes for v2's vectors.",
)
@click.option(
    "--part", default="validation", show_default=True, help="People to fit on, or calibration."
)
@click.option("--old-vectors", type=click.Path(path_type=Path), help=".npz with v1's vectors.")
@click.option("--replace", is_flag=True, help="Replace an edge that is calibrated already.")
@seed_option
@json_option
@click.pass_context
def bridge(
    context: click.Context, /, data: Path, old: str, new: str, as_json: bool, **given: Any
) -> None:
    """Fit a map between two versions that were not trained together, for their edge."""
    from segue.workspace.people import shown_settings

    workspace = open_workspace(context)
    with progress_bar() as progress:
        made = workspace.train_bridge(data, old=old, new=new, progress=progress, **given)
    value = {
        "bridge": made.number,
        "kind": made.bridge.kind,
        "probe": made.probe,
        "stored": made.stored,
        "settings": shown_settings(made.bridge),
        "kinds": list(made.table),
        "unseen": made.unseen.to_json(),
    }
    emit(value, as_json, lambda: _bridge_text(made, _sources(data, given["old_vectors"])))
    distance = made.table[0]["distance"]
    if distance >= made.unrelated:
        click.echo(
            f"segue: the map has learned nothing: people that it was not fitted on are mapped "
            f"{distance:.3f} from their own vectors, and {made.unrelated:.3f} from other people's; "
            "fit it on more people",
            err=True,
        )


def _sources(data: Path, old_vectors: Path | None) -> str:
    """Return the options of what was read, for the command that comes next."""
    return f"--data {data}" + (f" --old-vectors {old_vectors}" if old_vectors else "")


def _bridge_text(made: TrainedBridge, sources: str) -> str:
    """Tell what was tried on held-out people, what was taken, and what comes next."""
    settings = made.bridge.settings
    rows = [
        [row["kind"], f"{row['distance']:.4f}", "" if row["val"] is None else f"{row['val']:.3f}"]
        for row in made.table
    ]
    fitted = (
        f"bridge {made.number} ({made.bridge.kind}), {made.probe} -> {made.stored}: fitted on "
        f"{settings['images']} images of the {settings['people']} people of part {settings['part']}"
    )
    advice = (
        f"next: `segue calibrate {made.probe} --stored {made.stored} {sources}`; until then "
        "the edge ranks nothing together with other versions"
    )
    header = ["kind", "held-out distance", "VAL at FAR 1e-2"]
    return "\n".join([table(header, rows), fitted, made.unseen.sentence(), advice])


@train.command()
@data_option
@click.option("--old", required=True, help="The deployed version (v1).")
@click.option("--old-vectors", type=click.Path(path_type=Path), help=".npz with v1's vectors.")
@seed_option
@json_option
@click.pass_context
def retune(context: click.Context, /, data: Path, old: str, as_json: bool, **given: Any) -> None:
    """Fit a map of v1's own vectors, from them and labels alone; register OLD~bN.

    Fitted on all people of part `train`; told on part `validation`. A gallery's stored vectors are
    mapped by a migration to the registered version, which reads no image.
    """
    workspace = open_workspace(context)
    with progress_bar() as progress:
        made = workspace.retune(old, data, progress=progress, **given)
    value = {
        **_value(made.version),
        "old": made.old,
        "measured": made.measured,
        "unseen": made.unseen.to_json(),
    }
    emit(value, as_json, lambda: _retuned_text(made, data))


def _retuned_text(made: Retuned, data: Path) -> str:
    """Tell what the map does on people that it never saw, and what comes next."""
    details, name = made.version.details, made.version.version
    lines = []
    if made.measured:
        measures = list(made.measured["old"])
        sides = ((made.old, "old"), (name, "retuned"))
        rows = [
            [told, *(f"{made.measured[side][measure]:.3f}" for measure in measures)]
            for told, side in sides
        ]
        lines += [table(["on validation people", *measures], rows), made.unseen.sentence()]
    else:
        lines.append("not measured: no vectors of validation people")
    lines.append(
        f"{name} (retuned {made.old}): fitted on {details['images']} images of the "
        f"{details['people']} people of part train"
    )
    if not made.calibrated:
        lines.append(f"not calibrated: `segue calibrate {name} --data {data}`")
    lines.append(
        f"next: `segue train harmonic --old {name}`; stored vectors are mapped by "
        f"`segue migrate start GALLERY --to {name} --batch 20000`, without images"
    )
    return "\n".join(lines)


def _value(version: Version) -> dict[str, Any]:
    return {"version": version.version, "outputs": version.outputs, "details": version.details}


def _line(version: Version) -> str:
    details = version.details
    return (
        f"{version.version} ({details['kind']}): trained on {details['images']} images of the "
        f"{details['people']} people of part train, {details['seconds']:.0f} s"
    )
