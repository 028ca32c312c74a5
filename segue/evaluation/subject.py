"""What a report is of: the versions, the faces, and the edges that were stored from it.

Kept in `report.json` beside what was measured, so that a report tells which models and people it is
of wherever the file goes. Hashes only: no name, no item id.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from segue.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSIONS = "versions"
"""The key of `report.json` without which a report is of an older form, and says nothing of this."""


@dataclass(frozen=True)
class Named:
    """A version: its id, and the fingerprint of its weights and preprocessing."""

    version: str
    fingerprint: str


@dataclass(frozen=True)
class SubjectEdge:
    """An edge that was stored from the report: its outputs, and the hash of its bridge's file."""

    probe: str
    stored: str
    probe_output: str
    stored_output: str
    bridge: str | None = None


@dataclass(frozen=True)
class Subject:
    """What a report is of.

    Attributes:
        old, new, twin: the versions that were measured.
        measured_on: fingerprint of the faces that were measured.
        calibrated_on: fingerprint of the faces that the edges were calibrated on.
        edges: the edges that were stored with the report's calibrations.
    """

    old: Named
    new: Named
    twin: Named
    measured_on: str
    calibrated_on: str
    edges: tuple[SubjectEdge, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: the keys that `report.json` gets beside the report's own."""
        return {
            VERSIONS: {name: asdict(getattr(self, name)) for name in ("old", "new", "twin")},
            "data": {"measured_on": self.measured_on, "calibrated_on": self.calibrated_on},
            "edges": [asdict(edge) for edge in self.edges],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Subject | None:
        """Read it from `report.json`; None where that is of the older form, which has it not.

        Raises:
            EvaluationError: it is damaged.
        """
        if VERSIONS not in value:
            return None
        try:
            versions, data = value[VERSIONS], value["data"]
            old, new, twin = (Named(**versions[name]) for name in ("old", "new", "twin"))
            return cls(
                old,
                new,
                twin,
                str(data["measured_on"]),
                str(data["calibrated_on"]),
                tuple(SubjectEdge(**edge) for edge in value["edges"]),
            )
        except (KeyError, TypeError) as error:
            raise EvaluationError(
                f"the report does not say what it is of ({error!r}); measure again"
            ) from error
