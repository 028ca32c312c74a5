"""Promoting, aliases of galleries, and their mirror in MLflow."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa

from segue.database import ledger as ledger_table
from segue.errors import InvalidNameError, RegistryError, UnknownVersionError, UsageError
from segue.registry import GALLERY_ALIAS, Registry, record


def mirrored(registry, name="faces"):
    found = registry.tracking.connect().get_registered_model(name).aliases
    return {alias: str(number) for alias, number in found.items()}


def test_promote_moves_the_alias_and_says_who_and_why(register, registry):
    """`serving` moves here and in MLflow; the ledger keeps actor, reason and what it was before."""
    register()
    register(which=1)
    registry.promote("faces/1", reason="first", actor="ada")
    assert registry.promote("faces/2", reason="better at 1e-3", actor="bo").aliases == ("serving",)
    assert mirrored(registry) == {"serving": "2"}
    entries = [x for x in registry.ledger() if x.action == "promote"]
    assert [(x.subject, x.actor, x.reason, x.details["previous"]) for x in entries] == [
        ("faces/1", "ada", "first", None),
        ("faces/2", "bo", "better at 1e-3", "faces/1"),
    ]


def test_promote_needs_a_reason_and_a_usable_alias(register, registry):
    """No reason, an unknown version or a word of MLflow's is refused and changes nothing."""
    register()
    with pytest.raises(UsageError, match="reason"):
        registry.promote("faces/1", reason=" ")
    with pytest.raises(UnknownVersionError):
        registry.promote("faces/9", reason="x")
    for alias in ("latest", "v1", "a b", ""):
        with pytest.raises(InvalidNameError):
            registry.promote("faces/1", reason="x", alias=alias)
    assert registry.resolve("faces/1").aliases == ()


def test_an_alias_and_an_entry_belong_to_the_callers_transaction(register, registry, database):
    """`set_alias` and `record` commit or vanish with everything else of the transaction."""
    register()

    def interrupted():
        with database.write() as connection:
            registry.set_alias(connection, "faces", "serving-main", "faces/1", "go live", "ada")
            registry.record(connection, "serving", "main", "go live", {"from": None}, "ada")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert registry.resolve("faces/1").aliases == ()
    assert [x.action for x in registry.ledger()] == ["register"]
    assert mirrored(registry) == {}
    with database.write() as connection:
        registry.set_alias(connection, "faces", "serving-main", "faces/1", "go live", "ada")
        record(connection, "serving", "main", "go live", actor="ada")
    assert registry.resolve("faces@serving-main").version == "faces/1"
    assert [x.action for x in registry.ledger()] == ["register", "alias", "serving"]
    assert mirrored(registry) == {"serving-main": "1"}


def test_a_gallerys_alias_follows_it_to_a_model_of_another_name(register, registry, database):
    """A gallery is served by one version: its alias leaves the name that had it, also in MLflow."""
    register("old")
    register("new")
    for name in ("old", "new"):
        with database.write() as connection:
            registry.set_alias(connection, name, f"{GALLERY_ALIAS}site.b", f"{name}/1", "move")
    with pytest.raises(UnknownVersionError):
        registry.resolve("old@serving-site.b")
    assert registry.resolve("new@serving-site.b").version == "new/1"
    assert registry.ledger("new/1")[-1].details["previous"] == "old/1"
    assert mirrored(registry, "old") == {}
    assert mirrored(registry, "new") == {"serving-site_b": "1"}


def test_versions_that_mlflow_has_not_are_not_mirrored(database, registry):
    """An alias of versions without a copy moves here, and MLflow is not even asked."""
    from segue.registry.versions import Version, insert_version

    with database.write() as connection:
        for name in ("a", "b"):
            insert_version(
                connection,
                Version(
                    f"{name}/1", name, 1, "vectors", {"embedding": 4}, None, {}, "f", {}, "now"
                ),
            )
    for name in ("a", "b"):
        registry.promote(f"{name}/1", reason="x", alias=f"{GALLERY_ALIAS}site")
    assert [x.aliases for x in registry.list()] == [(), ("serving-site",)]
    assert registry.tracking._client is None


def test_serving_is_kept_for_each_name(register, registry):
    """Promoting a version of one name leaves the other names' `serving` alone."""
    register("a")
    register("b")
    registry.promote("a", reason="x")
    registry.promote("b", reason="x")
    assert [x.aliases for x in registry.list()] == [("serving",), ("serving",)]


def test_an_alias_cannot_point_at_another_name(register, registry, database):
    """`a@x` never resolves to a version of b."""
    register("a")
    register("b")
    with pytest.raises(UsageError, match="name"), database.write() as connection:
        registry.set_alias(connection, "a", "x", "b/1")
    with pytest.raises(UnknownVersionError), database.write() as connection:
        registry.set_alias(connection, "a", "x", "a/2")


def test_going_live_does_not_depend_on_mlflow(register, registry, database, root, caplog):
    """A mirror that fails inside a migration's transaction is logged, and repaired later."""
    register()
    away = Registry(database, root, tracking_uri="gopher://nobody")
    with caplog.at_level(logging.WARNING), database.write() as connection:
        away.set_alias(connection, "faces", "serving-main", "faces/1", "go live")
    assert "not mirrored" in caplog.text
    assert registry.resolve("faces@serving-main").version == "faces/1"
    assert mirrored(registry) == {}
    with pytest.raises(RegistryError):
        away.mirror_aliases()
    assert registry.mirror_aliases() == 1
    assert mirrored(registry) == {"serving-main": "1"}


def test_the_ledger_cannot_be_changed(register, database):
    """An entry is never updated or deleted, not even by SQL."""
    register()
    for statement in (
        sa.update(ledger_table).values(actor="eve"),
        sa.delete(ledger_table),
    ):
        with pytest.raises(sa.exc.IntegrityError, match="append-only"), database.write() as open_:
            open_.execute(statement)


def test_entries_are_numbered_in_order_and_told_as_json(database, registry):
    """The ledger is in the order of its commits, with its details."""
    with database.write() as connection:
        numbers = [record(connection, "gate", "main", details={"n": n}) for n in range(3)]
    assert numbers == sorted(numbers)
    assert [x.to_json()["details"] for x in registry.ledger()] == [{"n": 0}, {"n": 1}, {"n": 2}]
