"""`segue migrate`: plan, start, run, control, verify, finish or go back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segue.cli.common import (
    agree,
    emit,
    fields,
    json_option,
    open_workspace,
    progress_bar,
    table,
    yes_option,
)
from segue.errors import MissingPathError, UsageError

if TYPE_CHECKING:
    from segue.migrations import Plan

name_argument = click.argument("name")
order_option = click.option(
    "--order",
    type=click.Choice(["oldest", "random", "farthest"]),
    default="oldest",
    show_default=True,
    help="What comes first, after what a search touched; farthest: from its person's mean.",
)


@click.group()
def migrate() -> None:
    """Move a gallery from one version to another while it serves."""


@migrate.command()
@name_argument
@click.option("--to", "target", required=True, help="The new version.")
@click.option("--strategy", type=click.Choice(["mixed", "blue-green"]), help="By the gate if none.")
@order_option
@click.option("--batch", default=256, show_default=True, help="Items of one commit.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the plan to this file.")
@json_option
@click.pass_context
def plan(
    context: click.Context,
    name: str,
    target: str,
    strategy: str | None,
    order: str,
    batch: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Show what a migration of NAME would do; nothing is changed."""
    made = open_workspace(context).plan(name, target, strategy=strategy, order=order, batch=batch)
    value = made.to_json()
    if out is not None:
        from segue.files import write_durably

        write_durably(out, (json.dumps(value, indent=2) + "\n").encode())
    emit(value, as_json, lambda: _describe(made, out))


def _describe(made: Plan, out: Path | None) -> str:
    gate = "never measured" if made.gate is None else "GO" if made.go else "NO-GO"
    if gate == "NO-GO":
        gate += f"; `segue gate --old {made.source} --new {made.target}` says why"
    lines = [
        f"{made.gallery}: {made.source} -> {made.target}, {made.strategy}",
        f"gate        {gate}",
        f"items       {made.items}, of which {made.to_migrate} to migrate",
        f"no source   {made.missing_sources}",
        f"to write    {made.bytes:,} bytes of vectors",
    ]
    if made.seconds is not None:
        lines.append(f"embedding   about {made.seconds:.0f} s")
    if made.strategy == "blue-green":
        lines.append("blue-green: the old version serves until `segue migrate cutover`")
    start = f"--plan {out}" if out else f"--to {made.target}"
    lines.append(f"next: segue migrate start {made.gallery} {start}")
    return "\n".join(lines)


@migrate.command()
@name_argument
@click.option("--to", "target", help="The new version (plans and starts at once).")
@click.option("--plan", "plan_file", type=click.Path(path_type=Path), help="Start this plan.")
@click.option("--strategy", type=click.Choice(["mixed", "blue-green"]))
@order_option
@click.option("--batch", default=256, show_default=True)
@click.option("--force", metavar="REASON", help="Override a NO-GO; the ledger keeps the reason.")
@click.pass_context
def start(
    context: click.Context,
    name: str,
    target: str | None,
    plan_file: Path | None,
    strategy: str | None,
    order: str,
    batch: int,
    force: str | None,
) -> None:
    """Start a migration of NAME: in mixed mode the new version serves from now on."""
    workspace = open_workspace(context)
    if (target is None) == (plan_file is None):
        raise click.UsageError("give either --to VERSION or --plan FILE")
    if plan_file is not None:
        made = _read_plan(plan_file)
        if made.gallery != name:
            raise UsageError(f"{plan_file} plans gallery {made.gallery!r}, not {name!r}")
    else:
        assert target is not None
        made = workspace.plan(name, target, strategy=strategy, order=order, batch=batch)
    migration = workspace.start(made, force=force)
    status = migration.status()
    click.echo(
        f"{name}: {status.state}, {made.strategy}, serving {workspace.gallery(name).serving}; "
        f"next: `segue migrate run {name}`"
    )


def _read_plan(file: Path) -> Plan:
    from segue.migrations import Plan

    if not file.is_file():
        raise MissingPathError(file, "plan")
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        raise UsageError(f"{file} is no plan: {error}") from error
    return Plan.from_json(value)


@migrate.command()
@name_argument
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many items.")
@click.option("--retry", is_flag=True, help="Try quarantined items again.")
@json_option
@click.pass_context
def run(context: click.Context, name: str, limit: int | None, retry: bool, as_json: bool) -> int:
    """Re-embed what is left; a killed run goes on with the same command."""
    migration = open_workspace(context).migration(name)
    if retry:
        migration.retry()
    with progress_bar() as progress:
        result = migration.run(progress=progress, limit=limit)

    def text() -> str:
        line = f"{name}: {result.state}; migrated {result.migrated}, left {result.left}"
        if result.failed or (result.left and result.state == "caught_up"):
            line += (
                f"; quarantined items stay findable by the old version: see `segue migrate status "
                f"{name}`, then `segue migrate run {name} --retry`"
            )
        elif result.state == "caught_up":
            line += f"; next: `segue migrate verify {name}`"
        return line

    emit(asdict(result), as_json, text)
    stopped = limit is not None and result.state == "running"
    return 1 if result.failed or (result.left and not stopped) else 0


@migrate.command()
@name_argument
@json_option
@click.pass_context
def status(context: click.Context, name: str, as_json: bool) -> None:
    """Show state, progress, what a runner waits for, and quarantined items by reason."""
    value = asdict(open_workspace(context).migration(name).status())
    emit(value, as_json, lambda: fields(value))


def _control(action: str, text: str, consent: str | None = None) -> click.Command:
    """Make the command that calls one method of the migration, after consent where it says so."""

    @click.command(action, help=text)
    @name_argument
    @click.pass_context
    def command(context: click.Context, name: str, *, yes: bool = False) -> None:
        migration = open_workspace(context).migration(name)
        if consent is not None:
            agree(consent, yes=yes)
        getattr(migration, action)()
        status = migration.status()
        left = f", {status.left} items without a vector of {status.target}" if status.left else ""
        click.echo(f"{name}: {status.state}, serving {status.serving}{left}")

    return yes_option(command) if consent is not None else command


for _action, _text, _consent in (
    ("pause", "Pause the runner, from any process, within one batch.", None),
    ("resume", "Let a paused migration go on.", None),
    ("cutover", "Blue-green: let the new version serve; needs `verify` first.", None),
    (
        "revert",
        "Let the old version serve again; the new version's vectors are kept.",
        "reverting changes the serving version",
    ),
    (
        "abort",
        "Give the migration up while the old version serves; deletes the new vectors.",
        "aborting deletes the new version's vectors",
    ),
):
    migrate.add_command(_control(_action, _text, _consent))


@migrate.command()
@name_argument
@click.argument("items_per_second", type=float)
@click.pass_context
def throttle(context: click.Context, name: str, items_per_second: float) -> None:
    """Hold the runner to ITEMS_PER_SECOND; 0 lifts it."""
    migration = open_workspace(context).migration(name)
    migration.throttle(items_per_second or None)
    click.echo(f"{name}: {items_per_second or 'unlimited'} items per second")


@migrate.command()
@name_argument
@click.option("--sample", default=100, show_default=True, help="Items re-embedded and compared.")
@json_option
@click.pass_context
def verify(context: click.Context, name: str, sample: int, as_json: bool) -> None:
    """Re-embed a sample, check files, find known items end to end; exit 6 on a mismatch."""
    migration = open_workspace(context).migration(name)
    result = migration.verify(sample=sample)
    status = migration.status()

    def text() -> str:
        told = (
            f"{name}: verified; {result.compared} of {result.sample} sampled items embedded again, "
            f"worst squared distance {result.worst:.1e}; {result.searched} found end to end"
        )
        lines = [told]
        if result.left:
            lines.append(f"{result.left} items have no vector of the new version (quarantined)")
        served = status.serving == status.target
        lines.append(f"next: `segue migrate {'complete' if served else 'cutover'} {name}`")
        return "\n".join(lines)

    emit(asdict(result), as_json, text)


@migrate.command()
@name_argument
@click.option("--grace", default=0.0, show_default=True, help="Hours before old rows are removed.")
@click.option("--leave-old", is_flag=True, help="Leave items that only the old version can serve.")
@yes_option
@click.pass_context
def complete(context: click.Context, name: str, grace: float, leave_old: bool, yes: bool) -> None:
    """Remove the old version's rows; there is no revert after that."""
    migration = open_workspace(context).migration(name)
    agree("completing removes the old version's vectors for good", yes=yes)
    migration.complete(yes=True, grace=grace * 3600, leave_old=leave_old)
    target = migration.target
    click.echo(
        f"{name}: {migration.status().state}; new galleries start with what is promoted: "
        f"`segue models promote {target} --reason WHY`"
    )


@migrate.command()
@name_argument
@json_option
@click.pass_context
def history(context: click.Context, name: str, as_json: bool) -> None:
    """Show every event of the gallery's migrations."""
    events = open_workspace(context).migration(name).history(all_migrations=True)
    emit(
        [asdict(event) for event in events],
        as_json,
        lambda: table(
            ["at", "actor", "event", "state"],
            [[e.at[:19], e.actor, e.name, e.state] for e in events],
        ),
    )
