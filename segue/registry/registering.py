"""Registering a version: everything that can be refused first, then MLflow, then one commit."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from segue.database import versions as versions_table
from segue.errors import UsageError
from segue.files import fsync_directory, translated, write_durably
from segue.registry.edges import read_bridge
from segue.registry.embedder import RegistryEmbedder, make_runner
from segue.registry.ledger import record
from segue.registry.manifest import (
    MANIFEST,
    MODEL_FILES,
    PEOPLE,
    WITNESS,
    Manifest,
    canonical_json,
    fingerprint,
    hashes,
)
from segue.registry.mlflow_copy import registered_copy
from segue.registry.versions import Version, find_version, insert_version, list_versions
from segue.registry.witness import make_witness
from segue.types import DEFAULT_OUTPUT, VersionId, check_name, check_side, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from segue.database import Database
    from segue.registry.tracking import Tracking
    from segue.types import Preprocessing

MODELS = "models"
"""The workspace's folder of model folders."""

RUN = "run_id"
"""The key of `details` that names the MLflow run a model was trained in."""


@dataclass(frozen=True)
class Candidate:
    """A version that passed every check and has no number yet."""

    manifest: Manifest
    files: dict[str, bytes]  # all of the folder, the manifest included
    details: dict[str, Any]


def prepare_model(
    kind: str,
    name: str,
    content: bytes,
    *,
    architecture: str,
    settings: Mapping[str, Any],
    preprocessing: Preprocessing,
    details: Mapping[str, Any] | None,
    source: Path | str,
    people: bytes | None = None,
) -> Candidate:
    """Check a network or ONNX file by loading it safely and embedding its witnesses.

    `people` is what the workspace keeps of the people that it was trained on.

    Raises:
        InvalidNameError, UnknownNameError: a name that cannot be used or is not known.
        UsageError: settings or details that are no JSON, or images of a size that no model takes.
        UnsafeModelError: the content is no model of a known form.
        VectorError: it gives no unit vectors for images of that preprocessing.
    """
    check_name(name, "model name")
    for side in ("height", "width"):
        check_side(f"the preprocessing's {side}", getattr(preprocessing, side))
    details = _checked(details)
    mark = fingerprint(content, architecture, settings, preprocessing)
    runner = make_runner(kind, content, architecture, settings, source)
    embedder = RegistryEmbedder(name, runner, preprocessing, mark)
    files = {MODEL_FILES[kind]: content, WITNESS: make_witness(embedder)}
    manifest = Manifest(
        kind,
        name,
        dict(embedder.outputs),
        preprocessing,
        architecture,
        dict(settings),
        mark,
        hashes(files),
    )
    if people is not None:
        files[PEOPLE] = people
    described = {"architecture": architecture, "settings": dict(settings)}
    return _candidate(manifest, files, {**details, **described})


def prepare_vectors(name: str, dimension: int, details: Mapping[str, Any] | None) -> Candidate:
    """Check a version that has no model: a vendor's service, or a model nobody kept.

    With no content to hash, name, dimension, details and time make its fingerprint.

    Raises:
        InvalidNameError, UsageError: the name, dimension or details cannot be used.
    """
    check_name(name, "model name")
    details = _checked(details)
    if dimension < 1:
        raise UsageError(f"dimension {dimension}; give the length of the vectors, 1 or more")
    described = {"name": name, "dimension": dimension, "details": details, "at": utc_now()}
    mark = hashes({"": canonical_json(described)})[""]
    manifest = Manifest("vectors", name, {DEFAULT_OUTPUT: dimension}, None, "", {}, mark, {})
    return _candidate(manifest, {}, details)


def commit_version(
    database: Database, root: Path, tracking: Tracking, candidate: Candidate, actor: str | None
) -> str:
    """Register a candidate and return its id; on any error nothing of it is left.

    Its number is MLflow's where that is free here, the next free one otherwise.

    Raises:
        RegistryError: MLflow cannot be reached.
        ReadOnlyError, DiskFullError, LockedError: the workspace cannot be written.
    """
    manifest = candidate.manifest
    run_id = candidate.details.get(RUN)
    with (
        _staging(root / MODELS, candidate.files) as staging,
        registered_copy(tracking, manifest, staging, run_id) as copy,
    ):
        target: Path | None = None
        try:
            with database.write() as connection:
                number = _free_number(connection, manifest.name, copy.number)
                version = VersionId(manifest.name, number)
                target = _move(staging, root / MODELS / version.slug)
                insert_version(connection, _version(version, candidate, copy.uri))
                details = {"kind": manifest.kind, "fingerprint": manifest.fingerprint}
                record(connection, "register", str(version), details=details, actor=actor)
        except BaseException:
            if target is not None and not _is_registered(database, str(version)):
                shutil.rmtree(target, ignore_errors=True)
            raise
    return str(version)


def write_mapped(
    connection: sa.Connection, root: Path, source: str, bridge: int, actor: str | None
) -> str:
    """Register the version of `source`'s vectors taken through a bridge, and return its id.

    It lives in the space of the bridge's target and has no model; registering it again changes
    nothing.

    Raises:
        UnknownVersionError, RegistryError: no such version or bridge.
        UsageError: the bridge starts at another version.
    """
    origin = find_version(connection, source)
    found = read_bridge(connection, root, bridge)
    if found.source_version != origin.version:
        raise UsageError(
            f"bridge {bridge} maps vectors of {found.source_version}, not of {origin.version}"
        )
    version = VersionId(origin.name, origin.number, bridge)
    if any(x.version == str(version) for x in list_versions(connection, origin.name)):
        return str(version)
    mark = hashes({"": origin.fingerprint.encode() + found.to_bytes()})[""]
    insert_version(
        connection,
        Version(
            version=str(version),
            name=version.name,
            number=version.number,
            kind="mapped",
            outputs={DEFAULT_OUTPUT: int(found.matrix.shape[1])},
            preprocessing=None,
            files={},
            fingerprint=mark,
            details={"source": origin.version, "bridge": bridge, "target": found.target_version},
            created_at=utc_now(),
        ),
    )
    details = {"kind": "mapped", "fingerprint": mark, "bridge": bridge}
    record(connection, "register", str(version), details=details, actor=actor)
    return str(version)


def _candidate(manifest: Manifest, files: dict[str, bytes], details: dict[str, Any]) -> Candidate:
    return Candidate(manifest, {**files, MANIFEST: manifest.to_bytes()}, details)


def _checked(details: Mapping[str, Any] | None) -> dict[str, Any]:
    canonical_json(dict(details or {}))
    return dict(details or {})


def _version(version: VersionId, candidate: Candidate, uri: str) -> Version:
    manifest = candidate.manifest
    return Version(
        str(version),
        version.name,
        version.number,
        manifest.kind,
        manifest.outputs,
        manifest.preprocessing,
        hashes(candidate.files),
        manifest.fingerprint,
        candidate.details,
        utc_now(),
        uri,
    )


def _is_registered(database: Database, version: str) -> bool:
    """Whether the commit went through although an error followed it (an interrupt)."""
    with database.read() as connection:
        return any(x.version == version for x in list_versions(connection))


def _free_number(connection: sa.Connection, name: str, wanted: int) -> int:
    taken = set(
        connection.scalars(sa.select(versions_table.c.number).where(versions_table.c.name == name))
    )
    return wanted if wanted not in taken else max(taken) + 1


@contextmanager
def _staging(parent: Path, files: Mapping[str, bytes]) -> Iterator[Path]:
    """Write the folder durably under a temporary name; it is gone afterwards unless moved."""
    with translated(parent):
        parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=parent))
    try:
        for name, content in files.items():
            write_durably(staging / name, content)
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(staging: Path, target: Path) -> Path:
    """Give the folder its final name; the write lock is held, and no row speaks of `target`."""
    with translated(target):
        if target.exists():  # left by a registration that was killed before its commit
            shutil.rmtree(target)
        staging.chmod(0o755)  # mkdtemp makes it private
        staging.rename(target)
        fsync_directory(target.parent)
    return target
