"""Nobody is measured, calibrated or chosen on who was learned from: ask everything that learned.

What learned is each version's network, the networks that its training began from, the map that made
a retuned version's vectors, and the bridge of an edge. Where nothing is kept of whom one of them
learned from (a foreign model, vectors, a version of an older Segue), that is told, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.errors import UnknownVersionError, UsageError
from segue.registry import Version
from segue.types import BASE_OUTPUT
from segue.workspace.people import count_seen, kept_by_bridge, kept_by_version

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from segue.harmonic.bridges import Bridge
    from segue.registry import Edge
    from segue.workspace.core import Workspace
    from segue.workspace.people import KeptPeople


@dataclass(frozen=True)
class Unseen:
    """What is known of people of whom nobody was found among those that were learned from.

    Attributes:
        known: what learned from none of them: version ids, `the bridge faces/2 -> faces/1`.
        partly: what learned from more people than are marked -> (marked, all); nobody is among
            the marked ones.
        unknown: of what nothing is kept.
    """

    known: tuple[str, ...] = ()
    partly: tuple[tuple[str, int, int], ...] = ()
    unknown: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "not_in_training_of": list(self.known),
            "partly_known": [
                {"of": name, "marked": marked, "people": people}
                for name, marked, people in self.partly
            ],
            "not_known": list(self.unknown),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Unseen:
        """Read what `to_json` wrote.

        >>> told = Unseen(("faces/1",), (("faces/2", 5, 9),), ("vendor/1",))
        >>> Unseen.from_json(told.to_json()) == told
        True
        """
        partly = ((each["of"], each["marked"], each["people"]) for each in value["partly_known"])
        return cls(tuple(value["not_in_training_of"]), tuple(partly), tuple(value["not_known"]))

    def sentence(self) -> str:
        """Say it for a report or a terminal.

        >>> print(Unseen(("faces/2", "faces/3"), unknown=("vendor/1",)).sentence())
        None of these people, by name, was in the training of faces/2, faces/3. Not known: whether
        any was in the training of vendor/1, which keeps no marks of its people
        """
        told = []
        if self.known:
            told.append(
                f"None of these people, by name, was in the training of {', '.join(self.known)}"
            )
        told += [
            f"Partly known: {name} learned from {people:,} people, of whom {marked:,} are marked; "
            "none of these people is among the marked"
            for name, marked, people in self.partly
        ]
        if self.unknown:
            keep = "keeps no marks of its" if len(self.unknown) == 1 else "keep no marks of their"
            told.append(
                "Not known: whether any was in the training of "
                f"{', '.join(self.unknown)}, which {keep} people"
            )
        return ". ".join(told)


@dataclass(frozen=True)
class _Learner:
    """Something that learned from people.

    Attributes:
        name: how it is told.
        by: a version with a network, or a map; None where it is known by name alone.
        began: the version that was trained on from it, empty where it is asked for itself.
    """

    name: str
    by: Version | Bridge | None
    began: str = ""

    def kept(self, workspace: Workspace) -> KeptPeople | None:
        """Return what is kept of its people."""
        if self.by is None:
            return None
        if isinstance(self.by, Version):
            return kept_by_version(workspace, self.by)
        return kept_by_bridge(workspace, self.by)

    def told(self, kept: KeptPeople, seen: int, people: int) -> str:
        """Say how many of these people it learned from."""
        least = "" if kept.all_marked or seen == people else "at least "
        among = f"{least}{seen} of these {people} people"
        if isinstance(self.by, Version):
            onward = f", and {self.began} goes on from it" if self.began else ""
            return f"{self.name} was trained on {among}{onward}"
        if seen == people:
            among = f"the people of part {kept.part}"
        return f"{self.name} was fitted on {among}"


def check_unseen(
    workspace: Workspace,
    edges: Iterable[Edge],
    people: Collection[str],
    purpose: str,
    *,
    versions: Iterable[Version] = (),
    options: str = "--part, or other --data",
) -> Unseen:
    """Refuse people whom some edges' and versions' vectors were learned from: these are too good.

    Args:
        workspace: that knows the versions.
        edges: of both versions, and the bridge, of each is asked.
        people: their names.
        purpose: what they are wanted for, as an order: `calibrate it`.
        versions: further versions to ask.
        options: the command's options that name other people.

    Returns:
        what is known of them, where nobody was found.

    Raises:
        UsageError: some of these people were learned from.
        TamperedError, MissingPathError, FormatError: what is kept of people cannot be read.
    """
    names = set(people)
    known: list[str] = []
    partly: list[tuple[str, int, int]] = []
    unknown: list[str] = []
    for learner in _each_once(_learners(workspace, edges, versions)):
        kept = learner.kept(workspace)
        if kept is None:
            unknown.append(learner.name)
            continue
        seen = count_seen(workspace, kept, names)
        if seen:
            raise UsageError(
                f"{learner.told(kept, seen, len(names))}; {purpose} on others ({options}). People "
                "are told apart by name: rename those who only share one"
            )
        if kept.all_marked:
            known.append(learner.name)
        elif kept.marks:
            partly.append((learner.name, len(kept.marks), kept.people))
        else:
            unknown.append(learner.name)
    return Unseen(tuple(known), tuple(partly), tuple(unknown))


def _each_once(learners: Iterable[_Learner]) -> Iterator[_Learner]:
    told: set[str] = set()
    for learner in learners:
        if learner.name not in told:
            told.add(learner.name)
            yield learner


def _learners(
    workspace: Workspace, edges: Iterable[Edge], versions: Iterable[Version]
) -> Iterator[_Learner]:
    for edge in edges:
        if edge.bridge is not None:
            yield _fitted(edge.bridge)
        for name, output in ((edge.probe, edge.probe_output), (edge.stored, edge.stored_output)):
            version = workspace.registry.resolve(name)
            yield from _behind(workspace, version, mapped=output != BASE_OUTPUT)
    for version in versions:
        yield from _behind(workspace, version, mapped=True)


def _behind(workspace: Workspace, version: Version, *, mapped: bool) -> Iterator[_Learner]:
    """Yield what a version's vectors come from: its map if any, its network, what that began as."""
    registry = workspace.registry
    if version.kind == "mapped":
        if mapped:
            yield _fitted(registry.bridge(int(version.details["bridge"])))
        version = registry.resolve(str(version.details["source"]))
    began = ""
    told: set[str] = set()
    while version.version not in told:
        told.add(version.version)
        yield _Learner(version.version, version, began)
        start = version.details.get("start")
        if start is None:
            return
        began = version.version
        try:
            version = registry.resolve(str(start))
        except UnknownVersionError:  # the lineage came from another workspace
            yield _Learner(str(start), None, began)
            return


def _fitted(bridge: Bridge) -> _Learner:
    name = f"the bridge {bridge.source_version} -> {bridge.target_version}"
    return _Learner(name, bridge)
