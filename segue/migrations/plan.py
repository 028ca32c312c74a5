"""The plan of a migration: a value that says what will be done, and whether it still holds.

A plan is looked at, kept as JSON, and started later. `changes` compares it with the plan that would
be made now; nothing here reads a gallery.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from segue.errors import FormatError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
"""The format of a plan's JSON."""

MIXED, BLUE_GREEN = "mixed", "blue-green"

STRATEGIES = (MIXED, BLUE_GREEN)
"""`mixed`: the new version serves from the first second. `blue-green`: it serves at `cutover`."""

ORDERS = ("oldest", "random", "farthest")
"""Orders in which items are re-embedded; items that a search touched always come first."""

DRIFT_PERCENT = 5
"""Share of the live items, in percent, that may come or go before a plan is stale."""


@dataclass(frozen=True)
class Plan:
    """What a migration of one gallery would do, and the facts it was made from.

    Attributes:
        gallery: the gallery's name.
        source, target: the old and the new version, as ids.
        strategy: `mixed` or `blue-green`.
        strategy_given: the strategy was asked for, not chosen by the gate.
        order: one of `ORDERS`.
        batch: items per commit.
        items: live items of the gallery.
        to_migrate: those without a vector of the target.
        missing_sources: those of them whose image is not there; they would be quarantined.
        bridge: a fitted bridge source -> target that could map the vectors of those, if any.
        bytes: payload of the vectors to be written, in bytes.
        seconds: estimated embedding time, None where nothing was measured.
        gate: what the gate says of this pair as JSON (`Gate`), None where there is no report.
        report: the number of the report that it rests on.
        fingerprints: version id -> fingerprint, of both versions.
        edges: `"PROBE -> STORED"` -> when it was measured, for the calibrated edges of the pair.
        serving: the version that served when the plan was made.
        created_at: when it was made, UTC.
    """

    gallery: str
    source: str
    target: str
    strategy: str
    strategy_given: bool
    order: str
    batch: int
    items: int
    to_migrate: int
    missing_sources: int
    bridge: int | None
    bytes: int
    seconds: float | None
    gate: dict[str, Any] | None
    report: int | None
    fingerprints: dict[str, str]
    edges: dict[str, str]
    serving: str
    created_at: str
    format: int = field(default=FORMAT)

    @property
    def go(self) -> bool:
        """Whether a report exists and its gate says GO."""
        return self.gate is not None and bool(self.gate["go"])

    def has_edge(self, probe: str, stored: str) -> bool:
        """Whether probes of `probe` were measured against vectors of `stored`."""
        return edge_name(probe, stored) in self.edges

    def reasons(self) -> tuple[str, ...]:
        """Return why the gate is not GO: its failed checks' sentences, or what is missing."""
        if self.gate is None:
            return (f"no compatibility report of {self.target} against {self.source}",)
        if self.go:
            return ()
        failed = [check for check in self.gate.get("checks", []) if not check["passed"]]
        return tuple(str(check["sentence"]) for check in failed) or ("the gate's checks failed",)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            FormatError: written by a newer Segue.
            UsageError: no plan at all.
        """
        if not isinstance(value, dict) or "format" not in value:
            raise UsageError("this is no migration plan; make one with `segue migrate plan`")
        if value["format"] != FORMAT:
            raise FormatError("the migration plan", value["format"], FORMAT)
        try:
            plan = cls(**value)
        except TypeError as error:
            raise UsageError(
                f"the migration plan is damaged ({error}); make a new one with `segue migrate plan`"
            ) from error
        check_choices(plan.strategy, plan.order, plan.batch)
        return plan


def edge_name(probe: str, stored: str) -> str:
    """Return the key of an edge in `Plan.edges`.

    >>> edge_name("faces/2", "faces/1")
    'faces/2 -> faces/1'
    """
    return f"{probe} -> {stored}"


def check_choices(strategy: str | None, order: str, batch: int) -> None:
    """Refuse a strategy, an order or a batch size that there is not.

    Raises:
        UnknownNameError: an unknown strategy or order.
        UsageError: a batch of less than one item.
    """
    if strategy is not None and strategy not in STRATEGIES:
        raise UnknownNameError("migration strategy", strategy, STRATEGIES)
    if order not in ORDERS:
        raise UnknownNameError("migration order", order, ORDERS)
    if batch < 1:
        raise UsageError(f"a batch of {batch} items cannot be migrated; give 1 or more")


def changes(then: Plan, now: Plan) -> tuple[str, ...]:
    """Return why the plan `then` no longer describes what the plan `now` sees; empty if it does."""
    found = []
    for what in ("gallery", "target", "strategy"):
        before, after = getattr(then, what), getattr(now, what)
        if before != after:
            found.append(f"its {what} was {before}, now it is {after}")
    if then.serving != now.serving:
        found.append(f"{then.serving} was serving, now {now.serving} is")
    found += [
        f"the fingerprint of {version} changed"
        for version in sorted({*then.fingerprints, *now.fingerprints})
        if then.fingerprints.get(version) != now.fingerprints.get(version)
    ]
    found += _edge_changes(then.edges, now.edges)
    found += _gate_changes(then, now)
    if 100 * abs(now.items - then.items) > DRIFT_PERCENT * then.items:
        found.append(
            f"the gallery had {then.items} items, now {now.items} "
            f"(more than {DRIFT_PERCENT} % apart)"
        )
    return tuple(found)


def _edge_changes(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    found = []
    for edge in sorted({*then, *now}):
        if edge not in now:
            found.append(f"the edge {edge} is gone")
        elif edge not in then:
            found.append(f"the edge {edge} was measured since")
        elif then[edge] != now[edge]:
            found.append(f"the edge {edge} was measured again")
    return found


def _gate_changes(then: Plan, now: Plan) -> list[str]:
    words = [
        "missing" if plan.gate is None else "GO" if plan.go else "NO-GO" for plan in (then, now)
    ]
    if words[0] != words[1]:
        return [f"the gate was {words[0]}, now it is {words[1]}"]
    if then.report != now.report:
        return [f"the gate now reads report {now.report}, not {then.report}"]
    return []
