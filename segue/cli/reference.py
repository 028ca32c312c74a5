"""The command line's reference, generated from the commands themselves.

`python -m segue.cli.reference > docs/cli.md` writes it; a test compares the two.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from segue.cli import root

if TYPE_CHECKING:
    from collections.abc import Iterator

INTRODUCTION = """# Command line reference

Generated from the commands by `make docs`; do not edit.

`segue [--workspace DIR] COMMAND`. The workspace is `.segue` unless `--workspace` or the environment
variable `SEGUE_WORKSPACE` names another. `--json` prints JSON for programs.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed, or items left |
| 2 | usage, or consent missing (`--yes` where there is no terminal) |
| 3 | stale plan |
| 4 | drift: what was verified has changed |
| 5 | gate NO-GO |
| 6 | verification mismatch |
| 75 | locked, try again |
| 130 | interrupted; the same command goes on |
"""


def render() -> str:
    """Return the whole reference as Markdown."""
    context = click.Context(
        root,
        info_name="segue",
        max_content_width=96,
        terminal_width=96,
        **root.context_settings,
    )
    return INTRODUCTION + "".join(_sections(root, context))


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield f"\n## {context.command_path}\n\n```\n{command.get_help(context)}\n```\n"
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        inner = click.Context(
            child, info_name=name, parent=context, max_content_width=96, terminal_width=96
        )
        yield from _sections(child, inner)


if __name__ == "__main__":
    sys.stdout.write(render())
