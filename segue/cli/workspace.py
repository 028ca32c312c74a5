"""`segue init`, `doctor`, `backup` and `restore`."""

from __future__ import annotations

from pathlib import Path

import click

from segue.cli.common import agree, emit, json_option, open_workspace, yes_option
from segue.errors import MissingPathError, NoWorkspaceError


@click.command()
@click.pass_context
def init(context: click.Context) -> None:
    """Make an empty workspace in the folder that --workspace names."""
    from segue.workspace import Workspace

    workspace = Workspace.init(Path(str(context.obj)))
    click.echo(
        f"made workspace {workspace.root}; next: `segue train base NAME --data DIR`, "
        "or `segue models register NAME --onnx FILE`"
    )


@click.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> int:
    """Check database, models, bridges, calibrations, reports, galleries; exit 1 on damage."""
    problems = open_workspace(context).doctor()
    emit({"problems": problems}, as_json, lambda: "\n".join(problems) or "nothing wrong")
    return 1 if problems else 0


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.pass_context
def backup(context: click.Context, target: Path) -> None:
    """Copy catalog, segments, models and reports of one moment into the new folder TARGET."""
    open_workspace(context).backup(target)
    click.echo(f"backed up to {target}; put it back with `segue restore {target}`")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@yes_option
@click.pass_context
def restore(context: click.Context, source: Path, yes: bool) -> None:
    """Put the backup SOURCE back; what was erased in this workspace since stays erased.

    Where there is no workspace yet, one is made from the backup.
    """
    from segue.workspace import Workspace

    root = Path(str(context.obj))
    if not source.is_dir():
        raise MissingPathError(source, "backup folder")
    try:
        workspace = Workspace.open(root)
    except NoWorkspaceError:
        workspace = Workspace.init(root)
    else:
        agree(f"restoring replaces what {root} holds now", yes=yes)
    workspace.restore(source)
    click.echo(f"restored {root} from {source}; check it with `segue doctor`")
