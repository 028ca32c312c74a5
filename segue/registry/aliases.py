"""Aliases: names that point at a version, such as `serving`; the database holds the truth."""

from __future__ import annotations

import re

import sqlalchemy as sa

from segue.database import aliases as aliases_table
from segue.database import versions as versions_table
from segue.errors import InvalidNameError, UnknownVersionError, UsageError
from segue.registry.ledger import record
from segue.types import VersionId, check_name

SERVING = "serving"
"""The version that new galleries are served by; only `promote` moves it."""

GALLERY_ALIAS = "serving-"
"""Prefix of the alias that names what one gallery is served by: `serving-GALLERY`."""


def check_alias(alias: str) -> str:
    """Return `alias` if both Segue and MLflow can use it.

    Raises:
        InvalidNameError: other characters, or a word that MLflow keeps for itself.
    """
    check_name(alias, "alias")
    if alias == "latest" or re.fullmatch(r"[vV]\d+", alias):
        raise InvalidNameError("alias", alias, "MLflow keeps 'latest', 'v1', 'v2' … for itself")
    return alias


def mirrored_alias(alias: str) -> str:
    """Return how MLflow writes an alias: it knows no dot.

    >>> mirrored_alias("serving-site.b")
    'serving-site_b'
    """
    return alias.replace(".", "_")


def point(
    connection: sa.Connection,
    name: str,
    alias: str,
    version: str,
    *,
    action: str,
    reason: str | None,
    actor: str | None,
) -> list[tuple[str, str]]:
    """Let `name@alias` point at `version` and record it, inside the caller's transaction.

    A gallery is served by one version, so that pointing `serving-GALLERY` at a version of another
    name takes it away from the name that had it.

    Returns:
        The (name, alias) pairs that MLflow should forget.

    Raises:
        UsageError: the version has another name.
        UnknownVersionError: it is not registered.
    """
    check_alias(alias)
    if VersionId.parse(version).name != name:
        raise UsageError(f"{name}@{alias} cannot point at {version}: its name is not {name!r}")
    rows = connection.execute(sa.select(versions_table.c.version, versions_table.c.mlflow_uri))
    copies = {row.version: row.mlflow_uri for row in rows}
    if version not in copies:
        raise UnknownVersionError(version, copies)
    held = {one: held for one, its, held in current(connection) if its == alias}
    previous = held.get(name)
    dropped = [x for x in held if x != name] if alias.startswith(GALLERY_ALIAS) else []
    for other in (name, *dropped):
        connection.execute(
            aliases_table.delete().where(
                aliases_table.c.name == other, aliases_table.c.alias == alias
            )
        )
    connection.execute(aliases_table.insert().values(name=name, alias=alias, version=version))
    previous = previous or (held[dropped[0]] if dropped else None)
    record(connection, action, version, reason, {"alias": alias, "previous": previous}, actor=actor)
    return [(other, alias) for other in dropped if copies[held[other]] is not None]


def current(connection: sa.Connection) -> list[tuple[str, str, str]]:
    """Return every (name, alias, version)."""
    rows = connection.execute(
        sa.select(aliases_table).order_by(aliases_table.c.name, aliases_table.c.alias)
    )
    return [(row.name, row.alias, row.version) for row in rows]
