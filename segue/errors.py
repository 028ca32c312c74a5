"""Every error that Segue raises on purpose, as one tree.

```
SegueError                      exit code 1
├── UsageError                  2   the call itself is wrong
│   ├── InvalidNameError        2
│   ├── UnknownNameError        2   a name no registry of ours knows (architecture, loss …)
│   ├── MissingPathError        2
│   └── ConsentError            2   a destructive command without --yes
├── DataError                   1   the data cannot be used
│   ├── ImageError              1   undecodable, truncated or too large
│   ├── PeopleError             1   too few people, or people in two parts
│   └── VectorError             1   shape, dimension, NaN
│       └── UnitLengthError     1   not of unit length
├── RegistryError               1
│   ├── UnknownVersionError     2
│   ├── TamperedError           1   a file's hash is not the one registered
│   ├── UnsafeModelError        1   a file that could run code
│   ├── WitnessError            1   a model that does not reproduce its witnesses
│   ├── NoModelError            1   a version that has vectors only
│   ├── UnmeasuredEdgeError     1   two versions without a measured edge
│   └── StaleEdgeError          75  somebody else saved the edge meanwhile; try again
├── TrainingError               1
├── EvaluationError             1
│   └── UnsupportedFarError     2   a FAR below what the data can support
├── WorkspaceError              1
│   ├── NoWorkspaceError        2
│   ├── FormatError             1   written by a newer Segue
│   ├── ReadOnlyError           1
│   └── DiskFullError           1
├── GalleryError                1
│   ├── UnknownGalleryError     2
│   ├── GalleryExistsError      2
│   ├── DuplicateItemError      1
│   ├── UnknownItemError        2
│   └── CorruptSegmentError     6
├── MigrationError              1
│   ├── UnknownMigrationError   2
│   ├── TransitionError         2   the state machine has no such step
│   ├── ItemsLeftError          1   items quarantined or not migrated
│   ├── StalePlanError          3
│   ├── DriftError              4   what was verified is no longer what is there
│   ├── GateError               5   the gate says NO-GO
│   └── MismatchError           6   verification found other vectors or rows
└── LockedError                 75  somebody else holds it; try again
```

Each class carries its values as attributes; its message says what to do. `cli` turns an error into
one sentence and `exit_code`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def _known(names: Iterable[str]) -> str:
    listed = ", ".join(sorted(names))
    return listed or "none"


class SegueError(Exception):
    """Anything that Segue refuses or could not do; the message says what to do about it."""

    exit_code: ClassVar[int] = 1


# --- usage ----------------------------------------------------------------------------------


class UsageError(SegueError):
    """The call itself is wrong; nothing was touched."""

    exit_code = 2


class InvalidNameError(UsageError):
    """A name that cannot be used: names are letters, digits, `.`, `_` and `-`."""

    def __init__(self, kind: str, name: str, advice: str = "") -> None:
        self.kind, self.name = kind, name
        advice = advice or "use letters, digits, '.', '_' and '-', starting with a letter or digit"
        super().__init__(f"{name!r} is no {kind}: {advice}")


class UnknownNameError(UsageError):
    """A name that is not registered; the message lists those that are."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        super().__init__(f"unknown {kind} {name!r}; known: {_known(self.known)}")


class MissingPathError(UsageError):
    """A file or folder that should exist and does not."""

    def __init__(self, path: Path | str, what: str = "file or folder") -> None:
        self.path, self.what = path, what
        super().__init__(f"no {what} at {path}; check the path")


class ConsentError(UsageError):
    """A destructive command was not confirmed."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what}; pass --yes to agree (nothing was changed)")


# --- data -----------------------------------------------------------------------------------


class DataError(SegueError):
    """The data given cannot be used."""


class ImageError(DataError):
    """An image that cannot be decoded within bounds."""

    def __init__(self, source: str, reason: str) -> None:
        self.source, self.reason = source, reason
        super().__init__(f"cannot use image {source}: {reason}")


class PeopleError(DataError):
    """Too few people, or a list of people that contradicts itself."""


class VectorError(DataError):
    """Vectors of the wrong shape, dimension or length, or with NaN."""


class UnitLengthError(VectorError):
    """Vectors that are not of unit length."""

    def __init__(self, name: str, off: float) -> None:
        self.name, self.off = name, off
        super().__init__(
            f"{name} are not of unit length (off by up to {off:.3g}); divide each by its length"
        )


# --- registry -------------------------------------------------------------------------------


class RegistryError(SegueError):
    """A registered version, edge or file is not what it should be."""


class UnknownVersionError(RegistryError):
    """A version or alias that is not registered."""

    exit_code = 2

    def __init__(self, reference: str, known: Iterable[str]) -> None:
        self.reference, self.known = reference, tuple(known)
        super().__init__(
            f"unknown version {reference!r}; registered: {_known(self.known)} "
            "(see `segue models list`)"
        )


class TamperedError(RegistryError):
    """A file whose content is not the content that was registered."""

    def __init__(self, path: Path | str, expected: str, found: str) -> None:
        self.path, self.expected, self.found = path, expected, found
        super().__init__(
            f"{path} is not the file that was registered (sha256 {found[:12]}…, "
            f"expected {expected[:12]}…); restore it from a backup or register the model anew"
        )


class UnsafeModelError(RegistryError):
    """A file that could run code, or is no model of a known format."""

    def __init__(self, path: Path | str, reason: str, advice: str = "") -> None:
        self.path, self.reason = path, reason
        advice = advice or "Segue loads safetensors with JSON settings, and ONNX"
        super().__init__(f"refusing to load {path}: {reason}; {advice}")


class WitnessError(RegistryError):
    """A model that does not reproduce the vectors of its witness inputs."""

    def __init__(self, version: str, worst: float, tolerance: float) -> None:
        self.version, self.worst, self.tolerance = version, worst, tolerance
        super().__init__(
            f"{version} does not reproduce its witness vectors (squared distance {worst:.2e}, "
            f"tolerance {tolerance:.0e}); weights, preprocessing or runtime changed: "
            "register it as a new version"
        )


class NoModelError(RegistryError):
    """A version that has only vectors: nothing can be embedded with it."""

    def __init__(self, version: str) -> None:
        self.version = version
        super().__init__(
            f"{version} has no model, only vectors; give its vectors instead (`segue gallery "
            "import`; --old-vectors of the commands that train, calibrate or measure an upgrade)"
        )


class UnmeasuredEdgeError(RegistryError):
    """Two versions whose comparability was never measured."""

    def __init__(self, probe: str, stored: str) -> None:
        self.probe, self.stored = probe, stored
        super().__init__(
            f"no measured edge {probe} -> {stored}: their distances mean nothing together; "
            f"measure it with `segue evaluate compatibility --old {stored} --new {probe}`, or with "
            f"`segue calibrate {probe} --stored {stored}` if it has a bridge"
        )


class StaleEdgeError(RegistryError):
    """An edge was saved by somebody else since it was read; nothing of this was saved."""

    exit_code = 75

    def __init__(self, probe: str, stored: str) -> None:
        self.probe, self.stored = probe, stored
        super().__init__(
            f"another process saved the edge {probe} -> {stored} meanwhile, and it was not "
            "replaced; look at it (`segue models ledger`) and run the same command again"
        )


# --- training and evaluation ----------------------------------------------------------------


class TrainingError(SegueError):
    """A training that cannot start or go on."""


class EvaluationError(SegueError):
    """A measurement that cannot be made on this data."""


class UnsupportedFarError(EvaluationError):
    """A false accept rate below what the data can support."""

    exit_code = 2

    def __init__(
        self,
        far: float,
        smallest: float,
        where: str = "here",
        advice: str = "use more people or a larger FAR",
    ) -> None:
        self.far, self.smallest = far, smallest
        super().__init__(
            f"FAR {far:g} is not measurable {where}: the data supports {smallest:.1e} and above; "
            f"{advice}"
        )


# --- workspace ------------------------------------------------------------------------------


class WorkspaceError(SegueError):
    """The workspace cannot be read or written."""


class NoWorkspaceError(WorkspaceError):
    """No workspace where one was expected."""

    exit_code = 2

    def __init__(self, path: Path | str) -> None:
        self.path = path
        super().__init__(f"no workspace at {path}; make one with `segue init`")


class FormatError(WorkspaceError):
    """Something written in a format that this Segue does not know."""

    def __init__(self, what: Path | str, found: int | str, known: int | str) -> None:
        self.what, self.found, self.known = what, found, known
        super().__init__(
            f"{what} has format {found}, this Segue reads {known}; upgrade Segue to use it"
        )


class ReadOnlyError(WorkspaceError):
    """The workspace cannot be written."""

    def __init__(self, path: Path | str) -> None:
        self.path = path
        super().__init__(f"{path} is read-only; make it writable (nothing was changed)")


class DiskFullError(WorkspaceError):
    """The disk is full; nothing was committed."""

    def __init__(self, path: Path | str) -> None:
        self.path = path
        super().__init__(
            f"no space left on the disk of {path}; free some and run the same command again "
            "(nothing was lost)"
        )


# --- gallery --------------------------------------------------------------------------------


class GalleryError(SegueError):
    """A gallery cannot do what was asked."""


class UnknownGalleryError(GalleryError):
    """A gallery that does not exist."""

    exit_code = 2

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, tuple(known)
        super().__init__(f"unknown gallery {name!r}; there are: {_known(self.known)}")


class GalleryExistsError(GalleryError):
    """A gallery of that name is there already."""

    exit_code = 2

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"gallery {name!r} exists already; choose another name")


class DuplicateItemError(GalleryError):
    """An item that is in the gallery already."""

    def __init__(self, item_id: str, count: int = 1) -> None:
        self.item_id, self.count = item_id, count
        more = f" (and {count - 1} more)" if count > 1 else ""
        super().__init__(
            f"item {item_id!r}{more} is in the gallery already; erase it first, or pass --replace"
        )


class UnknownItemError(GalleryError):
    """An item that is not in the gallery."""

    exit_code = 2

    def __init__(self, item_id: str, gallery: str) -> None:
        self.item_id, self.gallery = item_id, gallery
        super().__init__(f"no item {item_id!r} in gallery {gallery!r}")


class CorruptSegmentError(GalleryError):
    """A segment or key file whose checksum is wrong."""

    exit_code = 6

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path} is damaged ({reason}); restore it with `segue restore`")


# --- migrations -----------------------------------------------------------------------------


class MigrationError(SegueError):
    """A migration cannot do what was asked."""


class UnknownMigrationError(MigrationError):
    """A gallery without a migration, or an unknown migration number."""

    exit_code = 2

    def __init__(self, gallery: str) -> None:
        self.gallery = gallery
        super().__init__(
            f"gallery {gallery!r} has no open migration; start one with `segue migrate start`"
        )


class TransitionError(MigrationError):
    """A step that the migration's state does not allow."""

    exit_code = 2

    def __init__(self, action: str, state: str, allowed: Iterable[str]) -> None:
        self.action, self.state, self.allowed = action, state, tuple(allowed)
        super().__init__(
            f"cannot {action} a migration that is {state}; now: {_known(self.allowed)}"
        )


class ItemsLeftError(MigrationError):
    """Items that only the old version can serve."""

    def __init__(self, left: int, advice: str) -> None:
        self.left = left
        super().__init__(f"{left} item(s) have no vector of the new version; {advice}")


class StalePlanError(MigrationError):
    """A plan that no longer describes the gallery."""

    exit_code = 3

    def __init__(self, changed: Iterable[str]) -> None:
        self.changed = tuple(changed)
        super().__init__(
            f"the plan is stale: {'; '.join(self.changed)}; "
            "make a new one with `segue migrate plan`"
        )


class DriftError(MigrationError):
    """Something verified has changed since."""

    exit_code = 4


class GateError(MigrationError):
    """The gate's NO-GO."""

    exit_code = 5

    def __init__(self, reasons: Iterable[str], advice: str) -> None:
        self.reasons = tuple(reasons)
        super().__init__(f"the gate says NO-GO: {'; '.join(self.reasons)}. {advice}")


class MismatchError(MigrationError):
    """Verification found something else than what should be there."""

    exit_code = 6


class LockedError(SegueError):
    """Somebody else holds what was asked for."""

    exit_code = 75

    def __init__(self, what: str, holder: str = "another process") -> None:
        self.what, self.holder = what, holder
        super().__init__(f"{what} is held by {holder}; try again when it is done")
