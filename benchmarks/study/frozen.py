"""The part test: measured once for each recipe that was frozen in a commit before."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from segue.errors import UsageError
from segue.files import write_durably

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FORMAT = 1

HERE = Path(__file__).parent
FROZEN = HERE / "frozen.json"
"""Name of a recipe -> the hash of everything that its figures depend on."""


def freeze(path: Path, keys: Mapping[str, str], data: str) -> None:
    """Write what is frozen: the hash of each recipe, and the fingerprint of the faces."""
    told = {"format": FORMAT, "data": data, "recipes": dict(keys)}
    write_durably(path, (json.dumps(told, indent=1, sort_keys=True) + "\n").encode())


def check_frozen(path: Path, keys: Mapping[str, str]) -> None:
    """Refuse recipes that are not, or not so, in the frozen file.

    Raises:
        UsageError: one is not; the message names them.
    """
    if not path.is_file():
        raise UsageError(f"nothing is frozen: {path} is missing; run with --freeze, and commit it")
    known = json.loads(path.read_text())["recipes"]
    if unknown := sorted(keys.keys() - known.keys()):
        raise UsageError(f"not frozen: {', '.join(unknown)}; the part test is for frozen recipes")
    if changed := sorted(name for name, key in keys.items() if known[name] != key):
        raise UsageError(
            f"changed since they were frozen: {', '.join(changed)}; go back to the frozen recipes, "
            "or freeze and commit again before you look at the part test"
        )


def frozen_names(path: Path) -> tuple[str, ...]:
    """Return the names of the frozen recipes; none where nothing is frozen."""
    return tuple(json.loads(path.read_text())["recipes"]) if path.is_file() else ()


def frozen_in(path: Path) -> str:
    """Return the commit, shortened, in which a frozen file was last changed."""
    return _git(path.parent, "log", "-1", "--format=%h", "--", path.name)


def check_people(path: Path, fingerprint: str) -> None:
    """Write down which people the part test shows, or refuse others than were seen first.

    Raises:
        UsageError: the images or people of the part are not what they were.
    """
    if not path.is_file():
        write_durably(path, f"{fingerprint}\n".encode())
    elif path.read_text().strip() != fingerprint:
        raise UsageError(
            f"part test is not what it was when it was opened ({path}); bring the same faces back"
        )


def committed(files: Iterable[Path]) -> str:
    """Return the commit that holds these files as they are now.

    Raises:
        UsageError: one of them is in no commit, or was changed since.
    """
    found = ""
    for file in files:
        if not _git(file.parent, "ls-files", "--", file.name):
            raise UsageError(f"{file} is in no commit; commit it before the part test is opened")
        if _git(file.parent, "status", "--porcelain", "--", file.name):
            raise UsageError(f"{file} has uncommitted changes; commit them, or take them back")
        found = _git(file.parent, "rev-parse", "HEAD")
    return found


def _git(folder: Path, *arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        raise UsageError("git is not installed; the part test is opened from a commit only")
    command: Sequence[str] = (git, "-C", str(folder), *arguments)
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise UsageError(
            f"{folder} is not in a git repository ({ended.stderr.strip()}); the part test is "
            "opened from a commit only"
        )
    return ended.stdout.strip()
