"""The upgrades of the study, by the name that `--studies` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.study.ablations import ABLATES
from benchmarks.study.recipes import DECIDES, ILLUSTRATES

if TYPE_CHECKING:
    from benchmarks.study.recipes import Study

STUDIES: dict[str, Study] = {
    "decides": DECIDES,
    "illustrates": ILLUSTRATES,
    "ablations": ABLATES,
}
