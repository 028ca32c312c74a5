"""`segue demo`."""

from __future__ import annotations

from pathlib import Path

import click

from segue.cli.common import progress_bar


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Real faces instead of drawn ones.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("segue-demo"),
    show_default=True,
    help="Folder to make; an earlier demo's folder is replaced.",
)
@click.option("--quick", is_flag=True, help="A few steps only: shows that it runs, no figures.")
def demo(data: Path | None, out: Path, quick: bool) -> None:
    """Run the whole upgrade: train, make harmonic, measure, go live mixed, migrate, finish."""
    from segue.demo import run_demo

    with progress_bar() as progress:
        run_demo(out, data, say=click.echo, progress=progress, quick=quick)
