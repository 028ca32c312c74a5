"""What the study compares, how cells are named, wrong labels, foreign models, and git."""

from __future__ import annotations

import subprocess
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from benchmarks.study import cells, command, frozen, recipes, short
from benchmarks.study.ablations import ABLATES
from benchmarks.study.cells import all_cells, batches, describe, models_of, twin_settings
from benchmarks.study.foreign import ForeignModel, apply_head, train_head
from benchmarks.study.people import TRAIN, VALIDATION, People, mislabelled
from benchmarks.study.recipes import DECIDES, ILLUSTRATES, Recipe, Study
from benchmarks.study.studies import STUDIES
from benchmarks.study.targets import targets
from segue.errors import MissingPathError, UnsafeModelError, UsageError
from segue.evaluation.upgrade import Figure, UpgradeFigures
from segue.files import sha256_bytes
from segue.harmonic import list_bridges, list_losses
from segue.images import Face, FaceList
from segue.train.settings import HarmonicSettings, TrainSettings
from segue.types import COMPATIBLE_OUTPUT, DEFAULT_OUTPUT, Preprocessing


def test_every_registered_loss_and_bridge_is_compared():
    """A new loss of versions, or kind of bridge, has to be entered in the study."""
    own = {"triplet", "weak_l2", "triplet+contra_ract"}  # no tie, and variants of what is there
    used = {recipe.settings.loss for recipe in DECIDES.recipes if recipe.settings is not None}
    assert used == set(list_losses()) - own
    assert {each.bridge for each in DECIDES.recipes if each.bridge} == set(list_bridges())


def test_recipes_are_named_once_and_take_equal_steps():
    """None embeds more batches than its twin; an ablation varies a recipe of as many seeds."""
    opened = [
        recipe.name for study in STUDIES.values() if study.opens_test for recipe in study.recipes
    ]
    assert len(opened) == len(set(opened))
    for study in (DECIDES, ABLATES):
        known = {recipe.name: recipe for recipe in study.recipes}
        assert len(known) == len(study.recipes)
        for recipe in study.recipes:
            given = recipe.settings or study.further
            twin = twin_settings(study, recipe)
            assert batches(given) <= batches(twin) == 650
            assert given.steps == twin.steps
            precision = "bfloat16" if study is DECIDES else "float32"
            assert (given.threads, given.precision) == (1, precision)
            assert recipe.seeds == (5 if study is DECIDES else 3)
            varies = recipe.group in {recipes.ABLATION, recipes.NOISE}
            assert bool(recipe.beside) == varies
            if varies:
                assert known[recipe.beside].group == recipes.STRATEGY
    for study in STUDIES.values():
        for recipe in study.recipes:
            told = [cell.digest for cell in models_of(study, recipe, 0, "faces")]
            assert len(set(told)) == len(told)


def test_recipes_that_differ_have_cells_of_their_own():
    """No two recipes of a study train the same; all share v1, and all but the noisy the start."""
    made = {
        study.name: {
            recipe.name: models_of(study, recipe, 1, "faces")
            for recipe in study.recipes
            if recipe.settings is not None
        }
        for study in (DECIDES, ABLATES)
    }
    for study, starts in ((DECIDES, 1), (ABLATES, 3)):  # 0, 10 and 20 % noise
        models = made[study.name].values()
        assert len({each.new.digest for each in models}) == len(models)
        assert len({each.old.digest for each in models}) == 1
        assert len({each.start.digest for each in models}) == starts
        assert len({each.twin.digest for each in models}) == starts + 1  # and of one stage
    foreign = models_of(ILLUSTRATES, ILLUSTRATES.recipes[0], 1, "faces")
    assert foreign.old.digest == made[DECIDES.name]["segue"].old.digest
    assert [cell.kind for cell in foreign] == [cells.V1, cells.FOREIGN, cells.HEAD]


def test_what_is_varied_is_the_strategy_that_the_upgrade_decides_on():
    """A parent differs from the strategy of its name by precision alone; noise by the labels."""
    decided = {recipe.name: recipe for recipe in DECIDES.recipes}
    known = {recipe.name: recipe for recipe in ABLATES.recipes}
    for recipe in ABLATES.recipes:
        if recipe.group == recipes.STRATEGY:
            told = replace(decided[recipe.name].settings, precision="float32")
            assert recipe.settings == told
        if recipe.group == recipes.NOISE:
            assert recipe.settings == known[recipe.beside].settings
            assert recipe.noise > 0


def test_cells_are_ordered_seed_by_seed_and_needs_come_first():
    """A prefix of the list is already a table of all strategies on some seeds."""
    chosen = [each for each in ABLATES.recipes if each.group != recipes.ABLATION]
    found = all_cells(ABLATES, chosen, [1, 0], "faces")
    place = {cell.digest: number for number, cell in enumerate(found)}
    for cell in found:
        assert all(place[need.digest] < place[cell.digest] for need in cell.needs)
    clean = [cell.index for cell in found if not cell.noise]
    assert clean == sorted(clean)


def test_seeds_differ_between_and_within_upgrades():
    """v1, start and further training of every index have seeds of their own; the twin shares."""
    used = []
    for index in range(5):
        models = models_of(DECIDES, DECIDES.recipes[0], index, "faces")
        used += [cell.settings.seed for cell in (models.old, models.start, models.new)]
        assert models.twin.settings.seed == models.new.settings.seed
    assert len(set(used)) == 15


STRATEGY = next(recipe for recipe in DECIDES.recipes if recipe.name == "segue")
CHANGES = {
    "steps": 7,
    "cross_weight": 0.77,
    "learning_rate": 0.1,
    "loss": "hoc",
    "loss_settings": {"temperature": 0.5},
    "head_images": 50,
    "precision": "float32",
}


@given(st.sampled_from(sorted(CHANGES)), st.integers(0, 4))
def test_a_cell_is_named_by_what_it_depends_on(name, index):
    """A setting, the data, noise or a need changes the name; labels and the machine do not."""
    cell = models_of(DECIDES, STRATEGY, index, "faces").new
    changed = replace(STRATEGY, settings=replace(STRATEGY.settings, **{name: CHANGES[name]}))
    assert models_of(DECIDES, changed, index, "faces").new.digest != cell.digest
    assert models_of(DECIDES, STRATEGY, index, "others").new.digest != cell.digest
    assert models_of(DECIDES, STRATEGY, index + 1, "faces").new.digest != cell.digest
    noisy = models_of(DECIDES, replace(STRATEGY, noise=0.1), index, "faces")
    assert noisy.new.digest != cell.digest
    assert noisy.old.digest == cell.need(cells.V1).digest
    older = replace(DECIDES, old=replace(DECIDES.old, steps=701))
    assert models_of(older, STRATEGY, index, "faces").new.digest != cell.digest
    told = replace(STRATEGY, name="another", says="More.", seeds=1)
    assert models_of(DECIDES, told, index, "faces").new.digest == cell.digest
    retuned = models_of(DECIDES, replace(STRATEGY, retuned=True), index, "faces")
    assert retuned.new.digest != cell.digest
    assert [each.digest for each in (retuned.old, retuned.twin)] == [
        each.digest for each in list(models_of(DECIDES, STRATEGY, index, "faces"))[::2][:2]
    ]
    elsewhere = replace(STRATEGY.settings, device="cuda", log_every=3)
    moved = replace(STRATEGY, settings=elsewhere)
    assert models_of(DECIDES, moved, index, "faces").new.digest == cell.digest


def test_a_loss_is_named_by_the_defaults_that_it_has():
    """Spelling out a default changes nothing; so a changed default does."""
    spelled = replace(STRATEGY.settings, loss_settings={"temperature": 0.07})
    assert describe(cells.TIED, spelled) == describe(cells.TIED, STRATEGY.settings)
    assert describe(cells.TIED, spelled)["loss_settings"]["temperature"] == 0.07


def test_settings_that_are_added_later_leave_names_as_they_are(monkeypatch):
    """A new setting at the value that means "as before" is not part of the name."""
    before = describe(cells.TIED, STRATEGY.settings)
    monkeypatch.setattr(cells, "LATER", {"cross_weight": STRATEGY.settings.cross_weight})
    without = describe(cells.TIED, STRATEGY.settings)
    assert before.keys() - without.keys() == {"cross_weight"}
    assert describe(cells.TIED, replace(STRATEGY.settings, cross_weight=9.0))["cross_weight"] == 9.0


def test_cells_that_are_stored_keep_their_names():
    """Hours of training hang on these: a setting that is added goes into `cells.LATER`."""
    recipe = next(recipe for recipe in DECIDES.recipes if recipe.name == "harmonic")
    models = models_of(DECIDES, recipe, 0, "faces")
    assert [cell.digest for cell in models] == [
        "50a9bff9b288d5b0",
        "12afb5ef43b4d290",
        "a69e5add52b33c51",
        "11921dff062a4560",
    ]


def test_a_twin_follows_the_self_loss_and_the_steps_and_no_tie():
    """A recipe's twin is trained with its self loss for as many steps."""

    def twin(**changed):
        recipe = replace(STRATEGY, settings=replace(STRATEGY.settings, **changed))
        return models_of(DECIDES, recipe, 0, "faces").twin

    usual = models_of(DECIDES, Recipe(name="twin", says=""), 0, "faces").twin
    assert twin(loss="hoc", cross_weight=3.0, head_dropout=0.1).digest == usual.digest
    one_stage = twin(head_steps=0, steps=650).settings
    assert (one_stage.head_steps, one_stage.steps) == (0, 650)
    assert twin(margin=0.3).digest != usual.digest
    assert twin(self_loss_settings={"strategy": "hardest"}).digest != usual.digest
    more = twin(steps=900).settings
    assert (more.head_steps, more.steps) == (150, 900)


FACES = FaceList(
    tuple(Face(f"p{i // 4}", Path(f"/x/{i}.png"), "train") for i in range(40)), Path("/x")
)


@given(st.sampled_from([0.0, 0.1, 0.25, 0.5]), st.integers(0, 5))
def test_wrong_labels(share, index):
    """Exactly that share of the images shows another known person; nothing else changes."""
    noisy = mislabelled(FACES, share, index)
    changed = [a.person != b.person for a, b in zip(noisy.faces, FACES.faces, strict=True)]
    assert sum(changed) == round(share * 40)
    assert [face.path for face in noisy.faces] == [face.path for face in FACES.faces]
    assert set(noisy.people) <= set(FACES.people)
    assert noisy == mislabelled(FACES, share, index)
    if share:
        assert noisy != mislabelled(FACES, share, index + 1)


def linear_model(side=32, dimension=12):
    """A linear embedding of [N, 3, side, side] as ONNX bytes."""
    flat = 3 * side * side
    drawn = np.random.default_rng(0).normal(size=(flat, dimension)).astype(np.float32)
    shape = numpy_helper.from_array(np.array([-1, flat], dtype=np.int64), "shape")
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", dimension])],
        [numpy_helper.from_array(drawn, "weights"), shape],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def test_an_upgrade_to_a_foreign_model_runs(trained, tmp_path, monkeypatch):
    """Frozen features, a head and a bridge: measured on both parts; the twin is v2 itself."""
    content = linear_model()
    (tmp_path / "linear.onnx").write_bytes(content)
    foreign = ForeignModel(
        name="linear.onnx", sha256=sha256_bytes(content), preprocessing=Preprocessing(32, 32)
    )
    head = HarmonicSettings(head_steps=5, people_per_batch=8, threads=1)
    study = Study(
        name="foreign",
        says="Drawn.",
        old=short.SHORT.old,
        start=foreign,
        further=head,
        recipes=(
            Recipe(name="head", says="A head.", settings=head, seeds=1),
            Recipe(name="map", says="A map.", bridge="ridge", seeds=1, group=recipes.BRIDGE),
        ),
        bootstrap=20,
        fars=(1e-1, 1e-2),
        rhos=(0.0, 1.0),
    )
    monkeypatch.setattr(short, "SHORT", study)
    arguments = ["--short", "--data", str(trained / "faces"), "--models", str(tmp_path)]
    arguments += ["--out", str(tmp_path / "out")]
    assert command.main(arguments) == 0
    assert command.main([*arguments, "--freeze"]) == 0
    assert command.main([*arguments, "--part", "test"]) == 0
    text = (tmp_path / "out" / "test.md").read_text()
    assert "head, → v1" in text
    assert "map, → v1" in text
    tax = [line for line in text.split("### Tax")[1].splitlines() if line.startswith("| head")]
    assert tax[0].count("+0.0 [+0.0, +0.0]") == 3

    faces = People(trained / "faces", tmp_path).measured(VALIDATION)
    assert foreign.embed(tmp_path, faces)[DEFAULT_OUTPUT].shape == (len(faces), 12)
    with pytest.raises(MissingPathError, match=r"linear\.onnx"):
        foreign.embed(tmp_path / "out", faces)
    (tmp_path / "linear.onnx").write_bytes(content + b" ")
    with pytest.raises(UnsafeModelError, match="not the model that the study names"):
        foreign.embed(tmp_path, faces)


def unit(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def test_a_head_learns_v1s_space():
    """On features that hold v1's vectors the head finds them; it takes features as they are."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 5)
    old = unit(random.normal(size=(20, 6))[labels] + 0.2 * random.normal(size=(100, 6)))
    features = unit(np.concatenate([old, random.normal(size=(100, 4))], axis=1) + 0.3)
    settings = HarmonicSettings(head_steps=150, head_learning_rate=2e-2, head_dropout=0.0)
    head, seconds = train_head(features, labels, old, settings)
    found = apply_head(features, head)
    np.testing.assert_array_equal(found[DEFAULT_OUTPUT], features)
    mapped = [features[i] @ head["weight"].numpy().T + head["bias"].numpy() for i in range(100)]
    np.testing.assert_allclose(found[COMPATIBLE_OUTPUT], unit(np.stack(mapped)), atol=1e-5)
    same = labels[:, None] == labels
    cosines = found[COMPATIBLE_OUTPUT] @ old.T
    assert cosines[same].mean() > cosines[~same].mean() + 0.5
    assert seconds > 0
    again, _ = train_head(features, labels, old, settings)
    assert all(bool((head[name] == again[name]).all()) for name in head)


def test_the_part_test_is_opened_from_a_commit_only(tmp_path):
    """Files in no commit, changed files and folders outside git are refused."""

    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    file = tmp_path / "frozen.json"
    file.write_text("{}")
    with pytest.raises(UsageError, match="not in a git repository"):
        frozen.committed([file])
    git("init", "-q")
    with pytest.raises(UsageError, match="in no commit"):
        frozen.committed([file])
    git("add", "frozen.json")
    with pytest.raises(UsageError, match="uncommitted changes"):
        frozen.committed([file])
    git("-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "x")
    assert len(commit := frozen.committed([file])) == 40
    assert commit.startswith(frozen.frozen_in(file))
    file.write_text("{ }")
    with pytest.raises(UsageError, match="uncommitted changes"):
        frozen.committed([file])


def test_the_part_test_is_not_for_ablations(tmp_path, capsys, monkeypatch):
    """They are never frozen, and a study that has no other recipe opens nothing."""
    monkeypatch.setattr(frozen, "FROZEN", tmp_path / "frozen.json")
    monkeypatch.setattr(People, "fingerprint", "faces")
    assert command.main(["--freeze", "--out", str(tmp_path)]) == 0
    names = frozen.frozen_names(tmp_path / "frozen.json")
    assert set(names) == {x.name for study in (DECIDES, ILLUSTRATES) for x in study.recipes}
    capsys.readouterr()
    asked = ["--part", "test", "--out", str(tmp_path), "--only", "segue, one stage"]
    assert command.main(asked) == 1
    assert "unknown recipe 'segue, one stage'" in capsys.readouterr().err
    assert command.main(["--list", "--out", str(tmp_path), "--studies", "large"]) == 1
    assert "ablations, decides, illustrates" in capsys.readouterr().err


def test_targets_say_what_is_met():
    """Each target is judged by the figure that it names; a gain without meaning is not met."""

    def figures(**values):
        found = {
            name: Figure(value, np.array([value]), np.full(10, value))
            for name, value in values.items()
        }
        return UpgradeFigures(9, 9, 1, 10, 0, (), (0.0,), "x", found)

    told = {
        wanted: met
        for wanted, _, met in targets(
            figures(
                **{
                    "twin less v1 VAL@1e-2": 0.11,
                    "cross less v1 VAL@1e-2": 0.02,
                    "cross less v1 rank-1": -0.01,
                    "tax VAL@1e-2": 0.03,
                    "search minimum less v1 rank-1": 0.0,
                }
            )
        )
    }
    assert told == {
        "twin at least 10 points above v1, VAL@1e-2": True,
        "v2 → v1 above v1, interval above 0, VAL@1e-2": True,
        "update gain at least 40 %, VAL@1e-2": False,
        "v2 → v1 at least v1, rank-1": False,
        "tax at most 2 points, upper bound, VAL@1e-2": False,
        "no ρ below v1, search, calibrated, rank-1": True,
    }


def test_every_setting_is_named_or_left_out_on_purpose():
    """Nothing that a training is told goes missing from its cell's name."""
    left_out = {"device", "log_every", "checkpoint_every"}
    names = {field.name for field in fields(HarmonicSettings)}
    told = describe(cells.TIED, STRATEGY.settings)
    assert told.keys() | cells.LATER.keys() & names == names - left_out
    names = {field.name for field in fields(TrainSettings)}
    told = describe(cells.V1, DECIDES.old)
    assert told.keys() | cells.LATER.keys() & names == names - left_out
    assert asdict(STRATEGY.settings).keys() >= describe(cells.HEAD, STRATEGY.settings).keys()
    assert TRAIN not in describe(cells.V1, DECIDES.old)
