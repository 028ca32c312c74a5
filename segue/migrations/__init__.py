"""Migrations: plan, state machine, runner, verification, and the ways forward and back.

Importing this loads neither torch nor mlflow.
"""

from __future__ import annotations

from segue.migrations.clock import Clock
from segue.migrations.finish import Completion
from segue.migrations.lazy import reembed_hits
from segue.migrations.migration import Migration
from segue.migrations.plan import ORDERS, STRATEGIES, Plan, changes
from segue.migrations.rows import Event, list_migrations, open_migration
from segue.migrations.runner import RunResult
from segue.migrations.states import STATES, transition
from segue.migrations.status import Status
from segue.migrations.verify import Verification

__all__ = [
    "ORDERS",
    "STATES",
    "STRATEGIES",
    "Clock",
    "Completion",
    "Event",
    "Migration",
    "Plan",
    "RunResult",
    "Status",
    "Verification",
    "changes",
    "list_migrations",
    "open_migration",
    "reembed_hits",
    "transition",
]
