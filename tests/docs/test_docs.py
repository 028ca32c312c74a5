from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from segue.cli import reference, root
from segue.synthetic import write_faces

TOP = Path(__file__).parents[2]
README = (TOP / "README.md").read_text(encoding="utf-8")


def _commands(command: click.Command, path: str = "") -> list[str]:
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    found = []
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        found += _commands(child, f"{path} {name}".strip())
    return found


def test_the_command_line_reference_is_what_the_commands_say():
    """docs/cli.md is generated; `make docs` brings it up to date."""
    assert (TOP / "docs" / "cli.md").read_text(encoding="utf-8") == reference.render()


def test_every_command_in_the_readme_exists():
    """Each `segue …` of the README names a command, and its options are that command's."""
    commands = _commands(root)
    written = re.findall(r"(?:^|`)segue ([a-z][^`\n#]*)", README, flags=re.MULTILINE)
    assert len(written) > 15
    for line in written:
        words = line.replace("|", " ").split()
        name = max((c for c in commands if words[: len(c.split())] == c.split()), default=None)
        assert name is not None or any(c.startswith(words[0]) for c in commands), line
        if name is None:
            continue
        command: click.Command = root
        for word in name.split():
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), word)
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        used = set(re.findall(r"(--[a-z-]+)", line))
        assert used <= known, f"{line}: {used - known}"


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
def test_the_python_of_the_readme_runs(block, tmp_path, monkeypatch, capsys):
    """Every Python block runs as it stands, in a folder with faces and a probe."""
    monkeypatch.chdir(tmp_path)
    if "faces" in block:
        write_faces(tmp_path / "drawn", people=30, images=3, size=32, seed=1)
        (tmp_path / "drawn" / "images").rename(tmp_path / "faces")
        first = min((tmp_path / "faces").rglob("*.png"))
        (tmp_path / "probe.png").write_bytes(first.read_bytes())
    exec(compile(block, "README.md", "exec"), {})
    if "faces" in block:
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == 3
        assert printed[0].split()[1] == "drawn0000"


@pytest.mark.parametrize("loss", ["HarmonicTripletLoss", "HarmonicContrastLoss"])
def test_both_losses_learn_in_the_loop_of_the_readme(loss):
    """The loop runs with either loss, with no other change, and ends nearer to v1."""
    (block,) = re.findall(r"```python\n(import torch.*?)```", README, flags=re.DOTALL)
    assert loss in README
    block = block.replace(
        "from segue import HarmonicTripletLoss", f"from segue.harmonic import {loss}"
    )
    block = block.replace("HarmonicTripletLoss()", f"{loss}()").replace("range(10)", "range(60)")
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    same = names["labels"][:, None] == names["labels"]
    cosines = names["v2"] @ names["v1"].T
    assert cosines[same].mean() > cosines[~same].mean() + 0.2


def test_every_python_block_counts():
    """The README shows two examples, and both run above."""
    assert len(re.findall(r"```python\n", README)) == 2
