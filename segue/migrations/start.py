"""Starting a migration: one transaction, after which it is there and, if mixed, v2 serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.errors import GateError, LockedError, StalePlanError, UsageError
from segue.migrations.plan import BLUE_GREEN, MIXED, Plan, changes, edge_name
from segue.migrations.planning import as_it_is_now, make_plan
from segue.migrations.rows import advance, insert_row, open_migration
from segue.migrations.serving import can_revert, companions_of, missing_edge, serve

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segue.database import Database
    from segue.index import Gallery
    from segue.registry import Registry


def start_migration(
    plan: Plan, database: Database, registry: Registry, gallery: Gallery, *, force: str | None
) -> int:
    """Start a planned migration and return its number.

    Raises:
        UsageError: the plan is for another gallery, or the reason in `force` is blank.
        LockedError: the gallery has an open migration.
        StalePlanError: what the plan was made from has changed.
        GateError: the plan is mixed, the gate is not GO, and no reason was given to override it.
    """
    if plan.gallery != gallery.name:
        raise UsageError(f"the plan is for gallery {plan.gallery!r}, not for {gallery.name!r}")
    if force is not None and not force.strip():
        raise UsageError("say why the gate is overridden: the ledger keeps the reason")
    number = open_migration(database, gallery.name)
    if number is not None:
        raise LockedError(
            f"gallery {gallery.name!r}", f"migration {number} (`segue migrate status`)"
        )
    stale = changes(plan, _plan_now(plan, database, registry, gallery))
    if stale:
        raise StalePlanError(stale)
    check_gate(plan, force)
    return _commit(plan, database, registry, gallery, None if plan.go else force)


def _commit(
    plan: Plan, database: Database, registry: Registry, gallery: Gallery, forced: str | None
) -> int:
    """Write the row, the events and, if mixed, what serves, in one transaction.

    The edges and the gate are read in it once more: between the plan and here somebody may have
    replaced a bridge.
    """
    mixed = plan.strategy == MIXED
    live = [version for version, count in gallery.stats().live.items() if count] if mixed else []
    with database.write() as connection:
        before = gallery.preference
        if before[0] != plan.serving:
            raise StalePlanError([f"{plan.serving} was serving, now {before[0]} is"])
        stale = changes(plan, as_it_is_now(plan, connection, registry))
        if stale:
            raise StalePlanError(stale)
        if mixed:
            _check_findable(plan, registry, live)
        number = insert_row(connection, plan, forced if mixed else None)
        if mixed:
            serve(
                connection,
                registry,
                gallery,
                plan.target,
                preference=[plan.target, *(v for v in before if v != plan.target)],
                companions=companions_of(registry, plan.source, plan.target),
                reason=f"migration {number} started",
            )
        if mixed and forced is not None:
            details = {"migration": number, "overridden": list(plan.reasons())}
            registry.record(connection, "force", gallery.name, forced, details)
        details = {"strategy": plan.strategy, "preference": list(before)}
        advance(connection, number, "start", details=details)
    return number


def check_gate(plan: Plan, force: str | None) -> None:
    """Refuse a mixed plan that neither the gate nor a reason allows.

    An edge target -> source that was never measured cannot be forced: the distances of such a
    mixed gallery would mean nothing.

    Raises:
        GateError: its advice is the blue-green road.
    """
    if plan.strategy != MIXED:
        return
    advice = (
        f"Take the {BLUE_GREEN} road: plan with `--strategy {BLUE_GREEN}`, run, verify, then cut "
        f"over; {plan.source} serves until then"
    )
    if not plan.has_edge(plan.target, plan.source):
        reason = (
            f"the edge {plan.target} -> {plan.source} is not calibrated, so that probes "
            f"of {plan.target} cannot be compared with what is stored"
        )
        raise GateError(
            [reason],
            f"{advice}. Or measure it, where training or a bridge joins the two: `segue evaluate "
            f"compatibility --old {plan.source} --new {plan.target}`",
        )
    if not plan.go and force is None:
        raise GateError(
            plan.reasons(),
            f"{advice}. Or override the gate with `--force REASON`, kept in the ledger",
        )


def _check_findable(plan: Plan, registry: Registry, live: Iterable[str]) -> None:
    """Refuse a mixed migration in which some item could not be found, now or after a revert.

    `live` are the versions in which items of the gallery are served.
    """
    missing = [missing_edge(registry, plan.target, version) for version in live]
    reasons = [
        f"the edge {edge} is not calibrated: items would not be found" for edge in missing if edge
    ]
    if not can_revert(registry, plan.source, plan.target):
        reasons.append(
            f"{plan.source} has no model, and no gate says GO with the edge "
            f"{edge_name(plan.source, plan.target)}: items enrolled from now on would not be found "
            "after a revert"
        )
    if reasons:
        raise GateError(
            reasons,
            f"Measure with `segue evaluate compatibility`, or plan with `--strategy {BLUE_GREEN}`",
        )


def _plan_now(plan: Plan, database: Database, registry: Registry, gallery: Gallery) -> Plan:
    """Make the same plan again from what is there now; a gallery served by the target is stale."""
    if gallery.serving != plan.serving:
        raise StalePlanError([f"{plan.serving} was serving, now {gallery.serving} is"])
    return make_plan(
        database,
        registry,
        gallery,
        plan.target,
        strategy=plan.strategy if plan.strategy_given else None,
        order=plan.order,
        batch=plan.batch,
        look=False,
    )
