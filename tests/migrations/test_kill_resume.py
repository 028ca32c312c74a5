"""A runner that is killed with SIGKILL loses nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BATTERY = Path(__file__).parents[2] / "benchmarks" / "kill_battery.py"


def test_four_kills(tmp_path):
    """After four kills at random moments every item is there once, with the right vector."""
    command = [sys.executable, str(BATTERY), "--kills", "4", "--items", "160", "--seed", "7"]
    ended = subprocess.run(
        [*command, "--folder", str(tmp_path / "battery")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "4 kills, 160 items: all there once, all right" in ended.stdout


def test_importing_is_light():
    """Migrations load neither torch nor mlflow, nor what only the index needs for its files."""
    heavy = "{'torch', 'mlflow', 'faiss', 'duckdb', 'pyarrow', 'onnxruntime', 'matplotlib'}"
    script = f"import sys, segue.migrations; print(sorted({heavy} & set(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"
