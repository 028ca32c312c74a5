"""How long `segue --help` takes, as a whole process, against `python -c 'import click'`.

Both commands run in turns in one go; the ratio of the medians is printed. Wanted: at most 3.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 40


def _seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    help_command = [str(Path(sys.executable).with_name("segue")), "--help"]
    click_command = [sys.executable, "-c", "import click"]
    times: dict[str, list[float]] = {"segue --help": [], "python -c 'import click'": []}
    for _ in range(ROUNDS):
        times["segue --help"].append(_seconds(help_command))
        times["python -c 'import click'"].append(_seconds(click_command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name:28}{value * 1000:8.1f} ms (median of {ROUNDS})")
    print(f"ratio {medians['segue --help'] / medians['python -c ' + repr('import click')]:.2f}")


if __name__ == "__main__":
    main()
