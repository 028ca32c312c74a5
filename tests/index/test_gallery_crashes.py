from __future__ import annotations

import subprocess
import sys

import pytest
from gallery_world import new_items, unit

from segue.errors import DuplicateItemError

_WRITER = """
import sys, pathlib
sys.path.insert(0, sys.argv[2])
from gallery_world import new_items, unit
from segue.database import Database
from segue.index import Gallery
root = pathlib.Path(sys.argv[1])
gallery = Gallery(Database(root / "segue.db"), root, "door")
for n in range(int(sys.argv[3]), 10_000):
    vectors = {"embedding": unit(2, seed=n)}
    gallery.enroll_vectors(
        new_items([f"a{n}", f"b{n}"]), "faces/1", vectors, replace=True, fresh=n % 3 == 0
    )
    if n % 4 == 3:
        gallery.erase([f"a{n - 1}"])
    if n % 5 == 4:
        gallery.compact()
    print(n, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_acknowledged(world, request):
    """After SIGKILL at any moment every acknowledged step is there once, and nothing else is."""
    world.create()
    done = -1
    for steps in (2, 5, 9):
        command = [sys.executable, "-c", _WRITER, world.root, request.path.parent, str(done + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line, _ in zip(child.stdout, range(steps), strict=False):
                done = int(line)
            child.kill()
            done = max([done, *(int(line) for line in child.stdout.read().split())])
        gallery = world.open()
        assert gallery.check() == []
        found = {row[0] for row in gallery.sql("SELECT item_id FROM live")[1]}
        sure = {f"{x}{n}" for x in "ab" for n in range(done + 1)}
        sure -= {f"a{n - 1}" for n in range(done + 1) if n % 4 == 3}
        in_flight = {f"{x}{done + 1}" for x in "ab"} | {f"a{done}"}
        assert found ^ sure <= in_flight
        gallery.compact()
        assert gallery.check() == []
        # An index file apart, what is left on the disk is what the catalog lists.
        names = {name for name in world.files() if not name.endswith(".faiss")}
        assert len(names) == 2 * gallery.stats().segments


def test_two_enrolments_of_one_item_end_with_one_item(world, monkeypatch):
    """Whoever commits second is refused, although both had checked before they wrote."""
    from segue.index import commit

    first, second = world.create(), world.open()
    real = commit._write_all

    def overtaken(*arguments):
        monkeypatch.setattr(commit, "_write_all", real)
        second.enroll_vectors(new_items(["a"]), "faces/1", {"embedding": unit(1)}, fresh=True)
        return real(*arguments)

    monkeypatch.setattr(commit, "_write_all", overtaken)
    with pytest.raises(DuplicateItemError):
        first.enroll_vectors(new_items(["b", "a"]), "faces/1", {"embedding": unit(2)}, fresh=False)
    assert first.count_items() == 1
    assert world.files() == set()
    assert first.check() == []
