"""Who a map was fitted on: kept as marks that name nobody, so that nobody is measured twice.

A bridge's file keeps a mark of each person it was fitted on: 48 bits of a keyed hash of the name,
salted with the fingerprint of the faces. The key is drawn once for a workspace and lies in its
database alone, so that a bridge's file, MLflow or a report tell nobody whether somebody was among
the people, not even by trying names. Marks are compared where the key is: in this workspace. One
person under two names is two people here.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from segue.database import workspace as workspace_table
from segue.errors import UsageError
from segue.files import sha256_bytes
from segue.types import BASE_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.harmonic.bridges import Bridge
    from segue.images import FaceList
    from segue.registry import Edge
    from segue.workspace.core import Workspace

MARK_BYTES = 6
"""Of one mark: 100,000 people and 10,000 others share one by chance in 1 of 280,000 cases."""

MOST_MARKS = 100_000
"""At most so many people are marked, the ones of the smallest marks: 800 kB in a bridge's file."""

_MARKS = "people_marks"
_KEY_NAME = "people_key"
_OLD_LIST = "people_sha256"
"""In older bridges: a hash of all names, which has no key."""

_KEY = "people_key"


def fitted_on(workspace: Workspace, faces: FaceList, part: str) -> dict[str, Any]:
    """Return what the settings of a map keep of the people that it is fitted on, as JSON values."""
    key = _key(workspace)
    marks = sorted(_marks(key, faces.fingerprint, faces))
    return {
        "part": part,
        "data": faces.fingerprint,
        "people": len(faces.people),
        _KEY_NAME: _name_of(key),
        _MARKS: b64encode(b"".join(marks[:MOST_MARKS])).decode(),
    }


def shown_settings(bridge: Bridge) -> dict[str, Any]:
    """Return a map's settings for people and for MLflow: without the marks of who it is of."""
    hidden = {_MARKS, _KEY_NAME, _OLD_LIST}
    return {name: value for name, value in bridge.settings.items() if name not in hidden}


def check_unseen(workspace: Workspace, edge: Edge, faces: FaceList, purpose: str) -> None:
    """Refuse people that a map of an edge was fitted on: its vectors of them are too good.

    The maps are the edge's bridge, and the one that made a retuned version's vectors at either end.

    Raises:
        UsageError: some of these people are among them; `purpose` says what they were wanted for.
    """
    for bridge in _maps(workspace, edge):
        seen = _count_seen(workspace, bridge, faces)
        if not seen:
            continue
        among = f"the people of part {bridge.settings.get('part')}"
        if seen < len(faces.people):
            among = f"{seen} of these {len(faces.people)} people"
        raise UsageError(
            f"the bridge {bridge.source_version} -> {bridge.target_version} was fitted on {among}; "
            f"{purpose} on others (--part, or other --data)"
        )


def _maps(workspace: Workspace, edge: Edge) -> Iterator[Bridge]:
    if edge.bridge is not None:
        yield edge.bridge
    for name, output in ((edge.probe, edge.probe_output), (edge.stored, edge.stored_output)):
        version = workspace.registry.resolve(name)
        if version.retuned_from is not None and output != BASE_OUTPUT:
            yield workspace.registry.bridge(int(version.details["bridge"]))


def _count_seen(workspace: Workspace, bridge: Bridge, faces: FaceList) -> int:
    """Return how many of some people a map was fitted on; of its equal list, all of them."""
    if bridge.settings.get(_OLD_LIST) == _people_sha256(faces):
        return len(faces.people)
    kept = b64decode(str(bridge.settings.get(_MARKS, "")))
    if not kept:  # fitted before marks were kept
        return 0
    known = {kept[at : at + MARK_BYTES] for at in range(0, len(kept), MARK_BYTES)}
    return len(known & _marks(_key(workspace), str(bridge.settings["data"]), faces))


def _marks(key: bytes, salt: str, faces: FaceList) -> set[bytes]:
    return {
        hmac.digest(key, f"{salt}\0{person}".encode(), "sha256")[:MARK_BYTES]
        for person in faces.people
    }


def _name_of(key: bytes) -> str:
    """Return what tells one workspace's key from another's, and nothing else of it."""
    return hmac.digest(key, b"the name of this key", "sha256")[:MARK_BYTES].hex()


def _key(workspace: Workspace) -> bytes:
    """Return the workspace's key of marks; the first call draws it."""
    table = workspace_table
    query = sa.select(table.c.value).where(table.c.key == _KEY)
    with workspace.database.read() as connection:
        found = connection.scalar(query)
    if found is None:
        with workspace.database.write() as connection:
            found = connection.scalar(query)
            if found is None:
                found = secrets.token_hex(32)
                connection.execute(table.insert().values(key=_KEY, value=found))
    return bytes.fromhex(str(found))


def _people_sha256(faces: FaceList) -> str:
    return sha256_bytes("\0".join(faces.people).encode())
