"""How a probe's version is compared with each stored version: the measured edge, or itself."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from segue.arrays import check_vectors
from segue.database import edges as edges_table
from segue.errors import UnmeasuredEdgeError, VectorError
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from segue.harmonic.bridges import Bridge
    from segue.harmonic.calibration import Calibration
    from segue.index.items import Probe
    from segue.index.shelf import Shelf
    from segue.types import Floats


@dataclass(frozen=True)
class Way:
    """How probes of one version are compared with stored vectors of another.

    Attributes:
        bridge: maps the probe's vector first; None where it is compared as it is.
        calibration: None until it is measured; a version with itself needs none.
    """

    probe: str
    stored: str
    probe_output: str = DEFAULT_OUTPUT
    stored_output: str = DEFAULT_OUTPUT
    calibration: Calibration | None = None
    bridge: Bridge | None = None

    def vectors(self, probe: Probe) -> Floats:
        """Return the vectors to search with: unit float32 [N, d] of the stored output.

        Raises:
            VectorError: the probe lacks the output that this edge names.
        """
        if self.probe_output not in probe.vectors:
            raise VectorError(
                f"comparing {self.probe} with {self.stored} needs the probe's output "
                f"{self.probe_output!r}; it has {', '.join(sorted(probe.vectors)) or 'none'}"
            )
        vectors = probe.vectors[self.probe_output]
        if self.bridge is None:
            return vectors
        return self.bridge.apply(vectors, version=probe.version)


class Ways:
    """Reads edges, and keeps them until they are measured again."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[str, Way]] = {}

    def find(self, connection: sa.Connection, probe: str, stored: str) -> Way | None:
        """Return how `probe` is compared with `stored`, None where no edge was measured."""
        table = edges_table
        query = sa.select(table.c.created_at).where(
            table.c.probe == probe, table.c.stored == stored
        )
        measured_at = connection.scalar(query)
        if measured_at is None:
            return Way(probe, stored) if probe == stored else None
        with self._lock:
            known = self._known.get((probe, stored))
        if known is not None and known[0] == measured_at:
            return known[1]
        way = self._read(connection, probe, stored)
        with self._lock:
            self._known[probe, stored] = measured_at, way
        return way

    def get(self, connection: sa.Connection, probe: str, stored: str) -> Way:
        """Do as `find`.

        Raises:
            UnmeasuredEdgeError: no edge was measured.
        """
        way = self.find(connection, probe, stored)
        if way is None:
            raise UnmeasuredEdgeError(probe, stored)
        return way

    def _read(self, connection: sa.Connection, probe: str, stored: str) -> Way:
        from segue.registry.edges import read_edge

        edge = read_edge(connection, self._shelf.root, probe, stored)
        if edge is None:
            raise UnmeasuredEdgeError(probe, stored)
        return Way(
            probe,
            stored,
            edge.probe_output,
            edge.stored_output,
            edge.calibration,
            edge.bridge,
        )


def checked_probe(probe: Probe, outputs: dict[str, int]) -> Probe:
    """Return the probe with its vectors checked against its version's outputs.

    Raises:
        VectorError: no vectors, an output that the version has not, another number of vectors in
            each output, or vectors that are not unit float [N, d] of the version's dimension.
    """
    from dataclasses import replace

    if not probe.vectors:
        raise VectorError("the probe has no vectors")
    unknown = set(probe.vectors) - set(outputs)
    if unknown:
        raise VectorError(
            f"{probe.version} has no output {', '.join(sorted(unknown))}; "
            f"it has {', '.join(sorted(outputs))}"
        )
    vectors = {
        output: check_vectors(array, dimension=outputs[output], name="probe vectors")
        for output, array in probe.vectors.items()
    }
    if len({len(array) for array in vectors.values()}) != 1:
        raise VectorError("the probe's outputs hold different numbers of vectors")
    return replace(probe, vectors=vectors)
