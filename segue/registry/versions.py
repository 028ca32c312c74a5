"""Embedding versions as rows: what a version is, and how a reference finds one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from segue.database import aliases as aliases_table
from segue.database import versions as versions_table
from segue.errors import InvalidNameError, UnknownVersionError
from segue.registry.aliases import SERVING
from segue.types import DEFAULT_OUTPUT, Preprocessing, VersionId

KINDS = ("network", "onnx", "vectors", "mapped")
"""A network of ours, a foreign ONNX file, vectors without a model, vectors taken through a map."""


@dataclass(frozen=True)
class Version:
    """One registered embedding version; it never changes once registered, its aliases may.

    Attributes:
        version: its id, `faces/1` (`faces/1~b3`: vectors of faces/1 taken through bridge 3).
        kind: one of `KINDS`.
        outputs: output name -> dimension; `embedding` is always there.
        preprocessing: how images become the model's input; None where there is no model.
        files: file name -> sha256, in the workspace's `models/<slug>/`.
        fingerprint: sha256 over the weights and the canonical JSON of architecture, settings and
            preprocessing.
        details: architecture and settings of a network, and whatever was told at registration.
        mlflow_uri: `models:/faces/1`, MLflow's copy; None where it has none.
        aliases: names that point here now, such as `serving`.
    """

    version: str
    name: str
    number: int
    kind: str
    outputs: dict[str, int]
    preprocessing: Preprocessing | None
    files: dict[str, str]
    fingerprint: str
    details: dict[str, Any]
    created_at: str
    mlflow_uri: str | None = None
    aliases: tuple[str, ...] = field(default=())

    @property
    def dimension(self) -> int:
        """The dimension of the version's own output, `embedding`."""
        return self.outputs[DEFAULT_OUTPUT]

    @property
    def retuned_from(self) -> str | None:
        """The version whose vectors it is, retuned; None if it is no retuned version."""
        if self.kind != "mapped" or self.details.get("target") != self.version:
            return None
        return str(self.details["source"])

    @property
    def slug(self) -> str:
        """The id as one file name: `faces-1`."""
        return VersionId.parse(self.version).slug

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, for `models show --json`."""
        return {
            "version": self.version,
            "name": self.name,
            "number": self.number,
            "kind": self.kind,
            "dimension": self.dimension,
            "outputs": dict(self.outputs),
            "preprocessing": self.preprocessing.to_json() if self.preprocessing else None,
            "files": dict(self.files),
            "fingerprint": self.fingerprint,
            "details": dict(self.details),
            "created_at": self.created_at,
            "mlflow_uri": self.mlflow_uri,
            "aliases": list(self.aliases),
        }


def find_version(connection: sa.Connection, reference: str) -> Version:
    """Return the version that `reference` names.

    `faces/1` is that version; `faces@serving` what the alias points to; `faces` alone is
    `faces@serving`, or the only version of that name while nothing was promoted.

    Raises:
        UnknownVersionError: there is none; it lists those that are registered.
    """
    name, at, alias = reference.partition("@")
    if at:
        found = _aliased(connection, name, alias)
    elif "/" in reference:
        found = _known_id(reference)
    else:
        found = _aliased(connection, name, SERVING) or _only(connection, name)
    row = None
    if found is not None:
        query = sa.select(versions_table).where(versions_table.c.version == found)
        row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise UnknownVersionError(reference, known_references(connection))
    return _to_version(row, _aliases(connection).get(str(row["version"]), ()))


def list_versions(connection: sa.Connection, name: str | None = None) -> list[Version]:
    """Return the registered versions (of one name), by name and number."""
    query = sa.select(versions_table).order_by(
        versions_table.c.name, versions_table.c.number, versions_table.c.version
    )
    if name is not None:
        query = query.where(versions_table.c.name == name)
    pointing = _aliases(connection)
    return [
        _to_version(row, pointing.get(row["version"], ()))
        for row in connection.execute(query).mappings()
    ]


def known_references(connection: sa.Connection) -> list[str]:
    """Return everything that `find_version` would find: ids, and `name@alias`."""
    ids = connection.scalars(sa.select(versions_table.c.version))
    pairs = connection.execute(sa.select(aliases_table.c.name, aliases_table.c.alias))
    return sorted([*ids, *(f"{name}@{alias}" for name, alias in pairs)])


def insert_version(connection: sa.Connection, version: Version) -> None:
    """Add a version's row inside the caller's transaction."""
    connection.execute(
        versions_table.insert().values(
            version=version.version,
            name=version.name,
            number=version.number,
            kind=version.kind,
            outputs=version.outputs,
            preprocessing=version.preprocessing.to_json() if version.preprocessing else None,
            files=version.files,
            fingerprint=version.fingerprint,
            details=version.details,
            mlflow_uri=version.mlflow_uri,
            created_at=version.created_at,
        )
    )


def _to_version(row: sa.RowMapping, pointing: tuple[str, ...]) -> Version:
    preprocessing = row["preprocessing"]
    return Version(
        **{
            **row,
            "preprocessing": Preprocessing.from_json(preprocessing) if preprocessing else None,
            "aliases": pointing,
        }
    )


def _aliases(connection: sa.Connection) -> dict[str, tuple[str, ...]]:
    query = sa.select(aliases_table.c.version, aliases_table.c.alias)
    pointing: dict[str, tuple[str, ...]] = {}
    for version, alias in connection.execute(query.order_by(aliases_table.c.alias)):
        pointing[version] = (*pointing.get(version, ()), alias)
    return pointing


def _aliased(connection: sa.Connection, name: str, alias: str) -> str | None:
    return connection.scalar(
        sa.select(aliases_table.c.version).where(
            aliases_table.c.name == name, aliases_table.c.alias == alias
        )
    )


def _known_id(reference: str) -> str | None:
    try:
        return str(VersionId.parse(reference))
    except InvalidNameError:
        return None


def _only(connection: sa.Connection, name: str) -> str | None:
    ids = connection.scalars(
        sa.select(versions_table.c.version).where(
            versions_table.c.name == name, versions_table.c.kind != "mapped"
        )
    ).all()
    return ids[0] if len(ids) == 1 else None
