"""Who was learned from: kept as marks that name nobody, so that nobody is measured who was seen.

Beside a network that was trained here, and in a bridge's file, lies a mark of each person that it
was fitted on: 48 bits of a keyed hash of the name, salted with the fingerprint of the faces. The
key is drawn once for a workspace and lies in its database alone, so that such a file, MLflow or a
report tell nobody whether somebody was among the people, not even by trying names. (The fingerprint
of the faces tells it to who holds all of their images, and knows.) Marks are compared where the key
is: in this workspace. One person under two names is two people here, and two people of one name are
one.
"""

from __future__ import annotations

import hmac
import json
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from segue.database import workspace as workspace_table
from segue.errors import FormatError
from segue.files import sha256_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from segue.harmonic.bridges import Bridge
    from segue.images import FaceList
    from segue.registry import Version
    from segue.workspace.core import Workspace

MARK_BYTES = 6
"""Of one mark: 100,000 people and 10,000 others share one by chance in 1 of 280,000 cases."""

MOST_MARKS = 100_000
"""At most so many people are marked, the ones of the smallest marks: 800 kB in a file."""

FORMAT = 1
"""The format version of the file beside a network."""

_MARKS = "people_marks"
_KEY_NAME = "people_key"
_OLD_LIST = "people_sha256"
"""In older bridges: a hash of all names, which has no key."""

_KEY = "people_key"


@dataclass(frozen=True)
class KeptPeople:
    """What is kept of the people that something was fitted on.

    Attributes:
        people: how many they were.
        part: the part that they were then.
        data: the fingerprint of their faces.
        marks: of all of them, or of `MOST_MARKS`; none, where only a hash of the list was kept.
        whole: an older bridge's hash of all names, empty elsewhere.
    """

    people: int
    part: str
    data: str
    marks: frozenset[bytes]
    whole: str = ""

    @property
    def all_marked(self) -> bool:
        """Whether everybody is marked, so that who is not among the marks was not fitted on."""
        return len(self.marks) >= self.people


def trained_on(workspace: Workspace, faces: FaceList, part: str) -> bytes:
    """Return the file that lies beside a network trained on these people."""
    value = {"format": FORMAT, **fitted_on(workspace, faces, part)}
    return (json.dumps(value, sort_keys=True) + "\n").encode()


def fitted_on(workspace: Workspace, faces: FaceList, part: str) -> dict[str, Any]:
    """Return what the settings of a map keep of the people that it is fitted on, as JSON values."""
    key = _key(workspace)
    marks = sorted(_marks(key, faces.fingerprint, faces.people))
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


def kept_by_version(workspace: Workspace, version: Version) -> KeptPeople | None:
    """Return what is kept of the people that a network was trained on, None where nothing is.

    Raises:
        TamperedError, MissingPathError: the file is not what was registered.
        FormatError: a newer Segue wrote it.
    """
    content = workspace.registry.people(version)
    if content is None:
        return None
    value = json.loads(content)
    if value["format"] != FORMAT:
        raise FormatError(f"people of {version.version}", value["format"], FORMAT)
    return _kept(workspace, value)


def kept_by_bridge(workspace: Workspace, bridge: Bridge) -> KeptPeople | None:
    """Return what is kept of the people that a map was fitted on, None where nothing is."""
    return _kept(workspace, bridge.settings)


def count_seen(workspace: Workspace, kept: KeptPeople, people: Collection[str]) -> int:
    """Return how many of some people are known to be among those that were fitted on."""
    names = set(people)
    if kept.whole and kept.whole == sha256_bytes("\0".join(sorted(names)).encode()):
        return len(names)
    return len(kept.marks & _marks(_key(workspace), kept.data, names))


def _kept(workspace: Workspace, value: Mapping[str, Any]) -> KeptPeople | None:
    """Read what `fitted_on` wrote; marks that were made with another key say nothing here."""
    whole = str(value.get(_OLD_LIST, ""))
    marks = b64decode(str(value.get(_MARKS, "")))
    if marks and value.get(_KEY_NAME, "") not in {"", _name_of(_key(workspace))}:
        marks = b""
    if not marks and not whole:
        return None
    each = frozenset(marks[at : at + MARK_BYTES] for at in range(0, len(marks), MARK_BYTES))
    return KeptPeople(
        int(value.get("people", len(each))),
        str(value.get("part", "")),
        str(value.get("data", "")),
        each,
        whole,
    )


def _marks(key: bytes, salt: str, people: Collection[str]) -> set[bytes]:
    return {
        hmac.digest(key, f"{salt}\0{person}".encode(), "sha256")[:MARK_BYTES] for person in people
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
