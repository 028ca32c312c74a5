from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "faiss", "mlflow", "duckdb", "pyarrow", "onnxruntime", "matplotlib", "scipy")


def _loaded(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_import_segue_loads_nothing_heavy():
    """`import segue` stays light."""
    assert _loaded("import segue; dir(segue)") == set()


def test_help_loads_nothing_heavy():
    """`segue --help` imports click and little else."""
    code = "import segue.cli\ntry:\n    segue.cli.main(['--help'])\nexcept SystemExit: pass"
    script_loaded = _loaded(
        "import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()):\n"
        + "\n".join("    " + line for line in code.splitlines())
    )
    assert script_loaded == set()


def test_every_public_name_is_importable():
    """`__all__` is what can be imported."""
    import segue

    for name in segue.__all__:
        assert getattr(segue, name) is not None
