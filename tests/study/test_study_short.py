"""The study's main path on drawn faces: train, skip, measure, freeze, the part test once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.study import command, measure, short, training
from benchmarks.study.cells import all_cells, models_of
from benchmarks.study.people import CALIBRATION, TEST, VALIDATION, People
from benchmarks.study.store import Store
from segue.errors import TrainingError
from segue.evaluation.protocols import CompatibilityData
from segue.evaluation.upgrade import measure_upgrade
from segue.networks import TorchRunner, embed, load_network
from segue.types import COMPATIBLE_OUTPUT, DEFAULT_OUTPUT, Preprocessing

ROOT = Path(__file__).parents[2]

STUDY = short.SHORT


def run(out, *arguments):
    return command.main(["--short", "--out", str(out), *arguments])


def people(out):
    return People(out / "faces", out)


def cells(out):
    return all_cells(STUDY, STUDY.recipes, range(5), people(out).fingerprint)


def forbidden(*_arguments, **_named):
    raise AssertionError("this was to be skipped")


def seen(out, cell, faces):
    """Embed faces by a stored cell's files, with Segue alone."""
    stored = out / "cells" / cell.digest
    facts = json.loads((stored / "cell.json").read_text())
    weights = (stored / "weights.safetensors").read_bytes()
    network = load_network(facts["architecture"], facts["network"], weights)
    preprocessing = Preprocessing.from_json(facts["preprocessing"])
    images = faces.load((preprocessing.height, preprocessing.width))
    return embed(TorchRunner(network), images, preprocessing)


def test_tables_hold_what_a_direct_measurement_gives(trained):
    """Every figure is that of `measure_upgrade` on vectors made anew from the stored weights."""
    told = json.loads((trained / "validation.json").read_text())[STUDY.name]["segue"]
    recipe, known = STUDY.recipes[0], people(trained)
    data = {VALIDATION: [], CALIBRATION: []}
    for part, made in data.items():
        faces = known.measured(part)
        for index in range(recipe.seeds):
            models = models_of(STUDY, recipe, index, known.fingerprint)
            new = seen(trained, models.new, faces)
            own = {
                name: seen(trained, cell, faces)[DEFAULT_OUTPUT]
                for name, cell in (("v1", models.old), ("twin", models.twin))
            }
            made.append(
                CompatibilityData(
                    faces.labels,
                    v2=new[DEFAULT_OUTPUT],
                    v2_cross=new[COMPATIBLE_OUTPUT],
                    **own,
                )
            )
    direct = measure_upgrade(
        data[VALIDATION],
        data[CALIBRATION],
        fars=STUDY.fars,
        rhos=STUDY.rhos,
        bootstrap=STUDY.bootstrap,
    )
    assert told["seeds"] == [0, 1]
    assert told["figures"].keys() == direct.figures.keys()
    for name, figure in told["figures"].items():
        np.testing.assert_allclose(figure["estimate"], direct.estimate(name).to_json(), atol=2e-3)
        np.testing.assert_allclose(
            [np.nan if x is None else x for x in figure["by_seed"]],
            direct.figure(name).by_seed,
            atol=2e-3,
        )


def test_tables_have_every_recipe_and_section(trained):
    """Each section stands there once, each recipe in the sections of its group."""
    text = (trained / "validation.md").read_text()
    for title in (
        "v2 → v1, and each model by itself",
        "What each costs",
        "v2 → v1 less v1",
        "v2 → v1 less the retuned v1",
        "Search area less that of rank merge with the same v2",
        "Tax: twin less v2",
        "Lowest point over ρ less v1, calibrated",
        "Worst realised FAR over its target, calibrated",
        "Area under the backfill curve, search",
        "segue less each other",
        "What is wanted of segue",
        "Ablations: each less what it varies",
        "Label noise: each less what it varies",
        "Raw and calibrated: segue",
    ):
        assert text.count(f"### {title}\n") == 1, title
    for recipe in STUDY.recipes:
        assert f"- {recipe.name}: {recipe.says}" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = [row.count("|") for row in rows]
    for row, width, before in zip(rows[1:], widths[1:], widths, strict=False):
        if row.startswith("|---"):
            assert width == before


def test_a_rerun_trains_and_measures_nothing(trained, monkeypatch, capsys):
    """What is stored is read: the same tables without a training or a measurement."""
    monkeypatch.setattr(training, "make_cell", forbidden)
    monkeypatch.setattr(measure, "measure_upgrade", forbidden)
    before = (trained / "validation.md").read_text()
    assert run(trained) == 0
    assert (trained / "validation.md").read_text() == before
    assert before in capsys.readouterr().out


def test_a_changed_recipe_is_trained_alone(folder, monkeypatch, capsys):
    """Another weight makes one cell for each seed; what does not depend on it stays."""
    first, *others = STUDY.recipes
    changed = replace(first, settings=replace(first.settings, cross_weight=0.7))
    monkeypatch.setattr(short, "SHORT", replace(STUDY, recipes=(changed, *others)))
    before = set((folder / "cells").iterdir())
    assert run(folder, "--no-tables") == 0
    made = set((folder / "cells").iterdir()) - before
    told = [json.loads((each / "cell.json").read_text())["label"] for each in made]
    assert sorted(told) == ["segue, seed 0", "segue, seed 1"]
    assert "nothing to measure" not in capsys.readouterr().out


def test_a_killed_cell_is_made_again_and_nothing_else(folder, capsys):
    """A half-written cell is no cell; its weights come out as they were, bit for bit."""
    cell = cells(folder)[3]
    stored, staged = folder / "cells" / cell.digest, folder / "staging" / cell.digest
    weights = (stored / "weights.safetensors").read_bytes()
    shutil.rmtree(staged, ignore_errors=True)
    shutil.move(stored, staged)
    (staged / "cell.json").unlink()
    assert run(folder, "--list") == 0
    assert "15 of 16 cells done" in capsys.readouterr().out
    others = {path: path.stat().st_mtime_ns for path in (folder / "cells").rglob("*")}
    assert run(folder, "--no-tables") == 0
    assert (stored / "weights.safetensors").read_bytes() == weights
    assert not staged.exists()
    assert all(path.stat().st_mtime_ns == then for path, then in others.items() if path.is_file())


def test_a_cell_that_another_process_makes_is_left_to_it(folder, monkeypatch):
    """A claimed cell is waited for, and taken when its owner ends without it."""
    store, cell = Store(folder), cells(folder)[3]
    shutil.rmtree(store.folder(cell))
    with store.claim(cell) as mine, Store(folder).claim(cell) as other:
        assert (mine, other) == (True, False)
    waited, made = [], []
    owner = store.claim(cell)
    owner.__enter__()

    def wait(seconds):
        waited.append(seconds)
        assert not made
        owner.__exit__(None, None, None)

    monkeypatch.setattr(training.time, "sleep", wait)
    assert training.make_cells(cells(folder), Store(folder), people(folder), made.append) == []
    assert waited
    assert len(made) == 1
    assert store.done(cell)


def test_two_workers_share_a_folder(trained, tmp_path):
    """Two processes make every cell once; the command as it is typed."""
    given = ["--short", "--out", tmp_path, "--data", trained / "faces", "--workers", "2"]
    given += ["--only", "segue", "--seeds", "0"]
    subprocess.run([sys.executable, "-m", "benchmarks.study", *given], cwd=ROOT, check=True)
    assert len(list((tmp_path / "cells").iterdir())) == 4
    assert not list((tmp_path / "staging").iterdir())
    assert "segue, → v1" in (tmp_path / "validation.md").read_text()


def test_the_short_form_takes_drawn_faces_only(tmp_path, capsys):
    """Nothing guards the part test there, so other faces are refused."""
    (tmp_path / "people.csv").write_text("person,images,part,v1\nx,1,test,0\n")
    assert run(tmp_path / "out", "--data", str(tmp_path)) == 1
    assert "holds no drawn faces" in capsys.readouterr().err


def test_a_constant_of_a_map_is_part_of_what_a_measurement_is_named_by(trained, monkeypatch):
    """Retuned recipes and bridges are measured anew when what fits their maps changes."""
    known = Store(trained), people(trained)
    measurer = measure.Measurer(STUDY, *known, VALIDATION)
    chosen = {each.name: each for each in STUDY.recipes}

    def keys():
        return {name: measurer.key(recipe, [0]) for name, recipe in chosen.items()}

    before = keys()
    monkeypatch.setitem(measure.RETUNING_CONSTANTS, "STEPS", 501)
    monkeypatch.setitem(measure.BRIDGE_CONSTANTS, "x", 1)
    changed = {name for name, key in keys().items() if key != before[name]}
    assert changed == {"segue, retuned", "bridge ridge"}


def test_a_failure_is_told_and_the_rest_goes_on(trained, tmp_path, monkeypatch, capsys):
    """What needs a cell that fails is not made; everything else is."""
    few = (replace(STUDY.recipes[0], seeds=1), STUDY.recipes[1])
    monkeypatch.setattr(short, "SHORT", replace(STUDY, recipes=few))

    def failing(cell, *arguments):
        if cell.kind == "tied" or cell.label == "start, seed 1":
            raise TrainingError(cell.label)
        return made(cell, *arguments)

    made = training.make_cell
    monkeypatch.setattr(training, "make_cell", failing)
    assert run(tmp_path, "--data", str(trained / "faces"), "--no-tables") == 1
    told = capsys.readouterr().err
    assert "failed: segue, seed 0: segue, seed 0" in told
    assert "failed: twin, seed 1: it needs start, seed 1" in told
    assert len(list((tmp_path / "cells").iterdir())) == 4


def test_the_part_test_is_for_frozen_recipes_and_measured_once(folder, monkeypatch, capsys):
    """Refused before it is frozen, and after a change; a second look prints what was stored."""
    assert run(folder, "--part", TEST) == 1
    assert "nothing is frozen" in capsys.readouterr().err
    assert not list(folder.rglob("vectors-test.npz"))

    assert run(folder, "--freeze", "--only", "segue; twin; bridge ridge") == 0
    assert run(folder, "--part", TEST, "--only", "harmonic") == 1
    assert "not frozen: harmonic" in capsys.readouterr().err

    assert run(folder, "--part", TEST) == 0
    told = json.loads((folder / "test.json").read_text())[STUDY.name]
    assert set(told) == {"segue", "twin", "bridge ridge"}
    assert len(list(folder.rglob("vectors-test.npz"))) == 8  # v1, start, twin, segue; two seeds
    assert len(list((folder / "test").iterdir())) == 4  # segue's twice: see `merged_with`
    first = (folder / "test.md").read_text()

    with monkeypatch.context() as patch:
        patch.setattr(measure, "measure_upgrade", forbidden)
        patch.setattr(command, "embed_later", forbidden)
        assert run(folder, "--part", TEST, "--seeds", "0") == 0
        assert (folder / "test.md").read_text() == first

    recipe = STUDY.recipes[0]
    changed = replace(recipe, settings=replace(recipe.settings, cross_weight=0.7))
    monkeypatch.setattr(short, "SHORT", replace(STUDY, recipes=(changed, *STUDY.recipes[1:])))
    capsys.readouterr()
    assert run(folder, "--part", TEST) == 1
    assert "changed since they were frozen: segue" in capsys.readouterr().err


def test_the_part_test_stays_the_same_people(folder, monkeypatch, capsys):
    """Whom it shows is written down when it is opened; other images are not measured after that."""
    assert run(folder, "--freeze", "--only", "twin") == 0
    assert run(folder, "--part", TEST) == 0
    assert (folder / "test-people.txt").read_text().strip() == people(folder).test_fingerprint
    monkeypatch.setattr(People, "test_fingerprint", "others")
    assert run(folder, "--part", TEST) == 1
    assert "part test is not what it was" in capsys.readouterr().err


def test_the_part_test_waits_for_every_seed(folder, capsys):
    """A recipe that is frozen but not trained from all seeds is not measured."""
    cell = next(cell for cell in cells(folder) if cell.label == "segue, seed 1")
    assert run(folder, "--freeze", "--only", "segue") == 0
    shutil.rmtree(folder / "cells" / cell.digest)
    assert run(folder, "--part", TEST) == 1
    assert "segue is trained from 1 of 2 seeds" in capsys.readouterr().err
    assert not list(folder.rglob("vectors-test.npz"))


@pytest.mark.parametrize("part", [VALIDATION, TEST])
def test_bridges_never_see_who_they_are_measured_on(folder, part, monkeypatch):
    """Fitted on other people; where these calibrate too, each is mapped without being fitted on."""
    known, seen_by = people(folder), []
    other = {VALIDATION: CALIBRATION, TEST: VALIDATION}[part]
    choose = measure.choose_bridge

    def watched(source, target, labels, **named):
        seen_by.append((len(source), choose(source, target, labels, **named)))
        return seen_by[-1][1]

    monkeypatch.setattr(measure, "choose_bridge", watched)
    store = Store(folder)
    recipe = next(each for each in STUDY.recipes if each.bridge)
    measurer = measure.Measurer(STUDY, store, known, part)
    if part == TEST:
        for cell in measurer.models(recipe, 0):
            training.embed_later(cell, store, known, TEST)
    data, calibration = measurer.data(recipe, 0)
    ((rows, choice),) = seen_by
    assert rows == len(known.measured(other))
    twin = store.vectors(measurer.models(recipe, 0).twin, CALIBRATION)[DEFAULT_OUTPUT]
    expected = choice.held_out
    if part == TEST:
        expected = choice.bridge.apply(twin, version="study/2")
    np.testing.assert_allclose(calibration.v2_cross, expected, atol=1e-6)
    assert len(data.labels) == len(known.measured(part))
