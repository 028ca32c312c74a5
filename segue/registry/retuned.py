"""Retuned versions: `faces/1~b3`, the vectors of faces/1 in a space of their own.

Unlike other mapped vectors these are compared with nobody else's by the map: it makes the space. A
version that is trained against them is compared with them, and so are vectors of faces/1 that take
the same map first. Each of its embeddings holds the vector before the map, too, as output `base`:
items that only have a vector of faces/1 are found by it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from segue.database import bridges as bridges_table
from segue.errors import NoModelError, UsageError
from segue.files import sha256_bytes, write_durably
from segue.harmonic.bridges import RETUNING
from segue.registry.edges import BRIDGES, Edge, put_back, write_edge
from segue.registry.ledger import record
from segue.registry.manifest import canonical_json, hashes
from segue.registry.versions import Version, find_version, insert_version
from segue.types import BASE_OUTPUT, DEFAULT_OUTPUT, VersionId, utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segue.harmonic.bridges import Bridge
    from segue.registry.embedder import RegistryEmbedder
    from segue.types import Floats, Images, Preprocessing

RETUNED = "retuned"
"""What `details` of such a version say in `kind`."""


class RetunedEmbedder:
    """A retuned version (`segue.types.Embedder`, `VectorMapper`): a model followed by a map.

    Attributes:
        version: the retuned version's id.
        base: the id of the version whose vectors the map takes.
        preprocessing: how images become the model's input; None where there is no model.
        fingerprint: of the base version and the map.
    """

    def __init__(self, version: Version, bridge: Bridge, model: RegistryEmbedder | None) -> None:
        self.version = version.version
        self.base = bridge.source_version
        self.fingerprint = version.fingerprint
        self.preprocessing: Preprocessing | None = model.preprocessing if model else None
        self._outputs = dict(version.outputs)
        self._bridge, self._model = bridge, model

    @property
    def outputs(self) -> Mapping[str, int]:
        """Output name -> dimension: `embedding`, which is mapped, and `base`, which is not."""
        return dict(self._outputs)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width that `embed` wants its images in.

        Raises:
            NoModelError: the base version has only vectors.
        """
        return self._open().input_size

    def embed(self, images: Images) -> dict[str, Floats]:
        """Embed RGB images uint8 [N, height, width, 3]: per output, unit float32 [N, d].

        Raises:
            NoModelError: the base version has only vectors; `embed_vectors` takes these.
            VectorError: images of another size or dtype, or a vector that is NaN or of length 0.
        """
        return self.embed_vectors(self._open().embed(images)[DEFAULT_OUTPUT])

    def embed_vectors(self, vectors: Floats) -> dict[str, Floats]:
        """Map unit vectors [N, d] of the base version: per output, unit float32 [N, d].

        Raises:
            VectorError: of another dimension, or not unit vectors.
        """
        mapped = self._bridge.apply(vectors, version=self.base)
        return {DEFAULT_OUTPUT: mapped, BASE_OUTPUT: vectors}

    def _open(self) -> RegistryEmbedder:
        if self._model is None:
            raise NoModelError(self.version)
        return self._model


def write_retuned(
    connection: sa.Connection,
    root: Path,
    bridge: Bridge,
    details: Mapping[str, Any],
    actor: str | None,
) -> str:
    """Register the version that a retuning makes, with its bridge and edges; return its id.

    The same map registered again changes nothing, but its file is put back if it was damaged.

    Raises:
        UnknownVersionError: the bridge's source is not registered.
        UsageError: it is no retuning, of another model, or of a version that is retuned already.
    """
    canonical_json(dict(details))
    origin = find_version(connection, bridge.source_version)
    _check(bridge, origin)
    known = _known(connection, root, bridge, origin)
    if known is not None:
        return known
    number = connection.execute(
        bridges_table.insert()
        .values(
            kind=bridge.kind,
            source=origin.version,
            target=origin.version,  # until the version is there that it leads to
            path="",
            sha256="",
            created_at=utc_now(),
        )
        .returning(bridges_table.c.bridge)
    ).scalar_one()
    version = VersionId(origin.name, origin.number, int(number))
    bridge = replace(bridge, target_version=str(version))
    content = bridge.to_bytes()
    sha256 = sha256_bytes(content)
    path = f"{BRIDGES}/{version.slug}-{sha256[:12]}.safetensors"
    write_durably(root / path, content)
    mark = hashes({"": origin.fingerprint.encode() + content})[""]
    dimension = int(bridge.matrix.shape[1])
    insert_version(
        connection,
        Version(
            version=str(version),
            name=version.name,
            number=version.number,
            kind="mapped",
            outputs={DEFAULT_OUTPUT: dimension, BASE_OUTPUT: origin.dimension},
            preprocessing=origin.preprocessing,
            files={},
            fingerprint=mark,
            details={
                **details,
                "kind": RETUNED,
                "source": origin.version,
                "bridge": int(number),
                "target": str(version),
            },
            created_at=utc_now(),
        ),
    )
    connection.execute(
        bridges_table.update()
        .where(bridges_table.c.bridge == number)
        .values(target=str(version), path=path, sha256=sha256)
    )
    found = {"kind": RETUNED, "fingerprint": mark, "bridge": int(number)}
    record(connection, "register", str(version), details=found, actor=actor)
    for edge in edges_of(bridge):
        write_edge(connection, root, edge, actor)
    return str(version)


def edges_of(bridge: Bridge) -> tuple[Edge, Edge]:
    """Return how a version and its retuned one are compared, not calibrated yet.

    Probes of the version take the map; a retuned probe has its vector before the map.
    """
    base, retuned = bridge.source_version, bridge.target_version
    return Edge(base, retuned, bridge=bridge), Edge(retuned, base, probe_output=BASE_OUTPUT)


def _check(bridge: Bridge, origin: Version) -> None:
    if bridge.kind != RETUNING:
        raise UsageError(f"a bridge of kind {bridge.kind} retunes nothing; fit a retuning")
    if origin.kind == "mapped":
        raise UsageError(
            f"{origin.version} holds mapped vectors already; retune "
            f"{origin.details['source']} anew instead"
        )
    if bridge.source_fingerprint and bridge.source_fingerprint != origin.fingerprint:
        raise UsageError(f"the map was fitted on another {origin.version}; fit it anew")
    if bridge.matrix.shape[0] != origin.dimension:
        raise UsageError(
            f"the map takes vectors of dimension {bridge.matrix.shape[0]}, {origin.version} has "
            f"{origin.dimension}; fit it on that version's vectors"
        )


def _known(connection: sa.Connection, root: Path, bridge: Bridge, origin: Version) -> str | None:
    """Return the version that was registered with the same map before, if any."""
    table = bridges_table
    query = sa.select(table.c.target, table.c.sha256, table.c.path).where(
        table.c.kind == RETUNING, table.c.source == origin.version
    )
    for target, sha256, path in connection.execute(query):
        if VersionId.parse(target).bridge is None:
            continue  # it maps probes for a version that was trained against the retuned one
        same = replace(bridge, target_version=target)
        for content in (replace(same, sealed=sealed).to_bytes() for sealed in (True, False)):
            if sha256_bytes(content) == sha256:
                put_back(root / path, content)
                return str(target)
    return None
