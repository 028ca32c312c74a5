"""The command line: thin click commands over `segue.Workspace`.

This module imports click and the error tree alone, so that `segue --help` answers at once; each
group of commands is imported when one of its commands is called.
"""

from __future__ import annotations

import signal
import sys
from importlib import import_module

import click

from segue.errors import SegueError

FAILED = 1
"""The exit code of a command that failed."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells give it."""

# Command -> (module, attribute, the line that --help shows). The order is the reader's.
_COMMANDS = {
    "init": ("workspace", "init", "Make an empty workspace."),
    "doctor": (
        "workspace",
        "doctor",
        "Check the workspace: database, models, bridges, reports, galleries.",
    ),
    "demo": ("demo", "demo", "Run the whole upgrade, from training to a completed migration."),
    "backup": ("workspace", "backup", "Copy catalog, segments and models into one folder."),
    "restore": ("workspace", "restore", "Put a backup back; erased items stay erased."),
    "models": ("models", "models", "Register, list, show and promote embedding versions."),
    "train": ("train", "train", "Train a version, or one harmonic with an old version."),
    "evaluate": ("evaluate", "evaluate", "Measure verification and compatibility."),
    "calibrate": ("evaluate", "calibrate", "Map an edge's distances to false accept rates."),
    "gate": ("evaluate", "gate", "Tell whether an upgrade may serve mixed: GO or NO-GO."),
    "gallery": ("gallery", "gallery", "Store, import, export, inspect and erase faces."),
    "search": ("gallery", "search", "Find the nearest items of a gallery."),
    "migrate": ("migrate", "migrate", "Move a gallery from one version to another."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the commands in the reader's order."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return one command."""
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(import_module(f"segue.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List every command with its line, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--workspace",
    "-w",
    default=".segue",
    show_default=True,
    envvar="SEGUE_WORKSPACE",
    metavar="DIR",
    help="The workspace's folder.",
)
@click.version_option(package_name="segue")
@click.pass_context
def root(context: click.Context, workspace: str) -> None:
    """Upgrade a deployed face-embedding model without re-indexing.

    Exit codes: 0 done, 1 failed or items left, 2 usage or consent missing, 3 stale plan, 4 drift,
    5 gate NO-GO, 6 verification mismatch, 75 locked (try again).
    """
    context.obj = workspace


def _told(error: OSError) -> str:
    """Return which path the operating system refused, and why, in one line."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return reason if error.filename is None else f"cannot use {error.filename}: {reason}"


def main(arguments: list[str] | None = None) -> None:
    """Run one command; errors become one sentence on stderr and their exit code.

    SIGTERM ends a command as Ctrl-C does: between two steps, with nothing lost.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = root.main(args=arguments, prog_name="segue", standalone_mode=False)
    except SegueError as error:
        click.echo(f"segue: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("segue: interrupted; the same command goes on where it stopped", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        click.echo(f"segue: {_told(error)}", err=True)
        sys.exit(FAILED)
    sys.exit(code if isinstance(code, int) else 0)
