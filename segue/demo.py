"""The main job, start to end: train, make harmonic, go live mixed, migrate, finish.

It calls `Workspace` as a user would, and says each step with the command that does the same.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import MissingPathError, UsageError
from segue.images import FaceList, decode, read_faces
from segue.index import NewItem, Probe
from segue.synthetic import NOTICE, write_faces
from segue.types import Progress, no_progress
from segue.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.index import Gallery
    from segue.registry import Version
    from segue.train import HarmonicSettings, TrainSettings
    from segue.workspace import Compatibility

MARKER = ".segue-demo"
"""Names a folder that a demo made and a later demo may replace."""

MODEL, GALLERY = "faces", "people"
"""The demo's model and gallery."""

FIRST_REASON = "the demo's first model"
FORCE_REASON = "demonstration: shows mixed serving although the gate says NO-GO"
"""What the ledger keeps: of v1, and where the demo overrides the gate."""

STOPS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The mixing ratios at which the demo answers its searches."""

SEARCH_FAR = 1e-2
"""The one threshold that the demo's searches keep at every mixing ratio."""


@dataclass(frozen=True)
class Recipe:
    """What the demo trains."""

    old: TrainSettings
    new: TrainSettings
    harmonic: HarmonicSettings
    bootstrap: int


@dataclass(frozen=True)
class Stop:
    """What the searches at one mixing ratio gave.

    Attributes:
        rho: share of the items that are live in the new version.
        rank1: share of the probes whose first hit is their own person.
        found: share of the probes that have a hit of their own person below the threshold.
        false_hits: mean number of other people's items below the threshold.
    """

    rho: float
    rank1: float
    found: float
    false_hits: float


@dataclass
class DemoResult:
    """What the demo measured."""

    workspace: Path
    compatibility: Compatibility
    stops: list[Stop] = field(default_factory=list)
    forced: bool = False
    seconds: float = 0.0


def run_demo(
    out: Path,
    data: Path | None,
    *,
    say: Callable[[str], None],
    progress: Progress = no_progress,
    quick: bool = False,
) -> DemoResult:
    """Run the whole upgrade below `out`; on drawn faces unless `data` names real ones.

    `quick` trains a few steps on few people: it shows that everything runs, its figures mean
    nothing.

    Raises:
        MissingPathError: no such data.
        UsageError: `out` holds something that no demo made.
    """
    begun = time.monotonic()
    if data is not None and not data.is_dir():
        raise MissingPathError(data, "folder of faces")
    workspace = _fresh_workspace(out)
    say(f"workspace {workspace.root}")
    folder = data
    if folder is None:
        folder = out / "faces"
        people = 60 if quick else 520
        say(f"drawing {people} people: {NOTICE}")
        write_faces(folder, people=people, images=10, seed=7, progress=progress)
    recipe = _recipe(drawn=data is None, quick=quick)
    demo = _Demo(workspace, folder, read_faces(folder), recipe, say=say, progress=progress)
    result = demo.run()
    result.seconds = time.monotonic() - begun
    _close(result, say, drawn=data is None)
    return result


def _fresh_workspace(out: Path) -> Workspace:
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise UsageError(f"{out} holds something that no demo made; choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()
    return Workspace.init(out / "workspace")


def _recipe(*, drawn: bool, quick: bool) -> Recipe:
    """Return the settings for drawn faces (minutes) or real ones (tens of minutes)."""
    from segue.train import HarmonicSettings, TrainSettings

    if quick:
        small = TrainSettings(width=4, image_size=32, steps=12, threads=1)
        further = HarmonicSettings(image_size=32, head_steps=4, steps=8, threads=1)
        return Recipe(small, small, further, bootstrap=20)
    if drawn:
        few: dict[str, Any] = {"people_per_batch": 32, "image_size": 48, "threads": 1}
        return Recipe(
            TrainSettings(width=6, steps=300, seed=1, **few),
            TrainSettings(width=12, steps=400, seed=2, **few),
            HarmonicSettings(steps=450, seed=3, **few),
            bootstrap=200,
        )
    return Recipe(
        TrainSettings(width=8, steps=700, seed=1, threads=1),
        TrainSettings(width=24, steps=800, seed=2, threads=1),
        HarmonicSettings(steps=500, seed=3, threads=1),
        bootstrap=500,
    )


class _Demo:
    """The steps, in order; each says the command that does the same."""

    def __init__(
        self,
        workspace: Workspace,
        folder: Path,
        faces: FaceList,
        recipe: Recipe,
        *,
        say: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self.workspace, self.folder, self.faces, self.recipe = workspace, folder, faces, recipe
        self.say, self.progress = say, progress
        self._segue = f"segue -w {shlex.quote(str(workspace.root))}"
        self._data = shlex.quote(str(folder))
        self.stored, self.probes = split_probes(faces.part("validation").at_most(10, 0))

    def run(self) -> DemoResult:
        old = self._train_old()
        gallery = self._enroll(old)
        new = self._train_new(old)
        compatibility = self._measure(old, new)
        result = DemoResult(self.workspace.root, compatibility)
        self._migrate(gallery, new, result)
        return result

    def _command(self, text: str) -> None:
        self.say(f"\n$ {self._segue} {text}")

    def _train_old(self) -> Version:
        self._command(
            f"train base {MODEL} --data {self._data} --old-only   # v1, half of the people"
        )
        version = self.workspace.train_base(
            MODEL, self.folder, self.recipe.old, old_only=True, progress=self.progress
        )
        self._trained(version)
        self._command(f'models promote {version.version} --reason "{FIRST_REASON}"')
        self.workspace.registry.promote(version.version, reason=FIRST_REASON)
        return version

    def _trained(self, version: Version) -> None:
        self.say(
            f"{version.version}: {version.details['images']} images of "
            f"{version.details['people']} people, {version.details['seconds']:.0f} s"
        )

    def _enroll(self, old: Version) -> Gallery:
        self._command(f"gallery create {GALLERY} --version {MODEL}@serving")
        gallery = self.workspace.create_gallery(GALLERY, f"{MODEL}@serving")
        items = [
            NewItem(face.path.name, face.person, str(face.path.resolve()))
            for face in self.stored.faces
        ]
        embedder = self.workspace.registry.load(old.version)
        enrolled = gallery.enroll(items, [embedder], progress=self.progress)
        self.say(
            f"enrolled {enrolled.enrolled} faces, {len(self.probes)} probes are kept out of it"
        )
        return gallery

    def _train_new(self, old: Version) -> Version:
        self._command(f"train base {MODEL} --data {self._data}   # v2, all of the people")
        start = self.workspace.train_base(
            MODEL, self.folder, self.recipe.new, progress=self.progress
        )
        self._trained(start)
        self._command(
            f"train harmonic --data {self._data} --old {old.version} --from {start.version}"
        )
        made, twin = self.workspace.train_harmonic(
            self.folder,
            self.recipe.harmonic,
            old=old.version,
            start=start.version,
            progress=self.progress,
        )
        assert twin is not None
        self._trained(made)
        self._trained(twin)
        return made

    def _measure(self, old: Version, new: Version) -> Compatibility:
        from segue.evaluation.report import gate_lines

        self._command(
            f"evaluate compatibility --old {old.version} --new {new.version} --data {self._data}"
        )
        measured = self.workspace.evaluate_compatibility(
            old.version,
            new.version,
            self.folder,
            bootstrap=self.recipe.bootstrap,
            progress=self.progress,
        )
        self._command(f"gate --old {old.version} --new {new.version}")
        for line in gate_lines(measured.gate):
            self.say(line)
        return measured

    def _migrate(self, gallery: Gallery, new: Version, result: DemoResult) -> None:
        go = result.compatibility.gate.go
        if not go:
            self._show_blue_green(new)
        force = "" if go else f' --strategy mixed --force "{FORCE_REASON}"'
        self._command(f"migrate start {GALLERY} --to {new.version}{force}")
        plan = self.workspace.plan(
            GALLERY, new.version, strategy=None if go else "mixed", order="random", batch=64
        )
        migration = self.workspace.start(plan, force=None if go else FORCE_REASON)
        result.forced = not go
        self.say(f"{gallery.serving} serves from now on; {plan.to_migrate} faces are still v1")
        embedder = self.workspace.registry.load(new.version)
        images = np.stack([decode(f.path, embedder.input_size) for f in self.probes.faces])
        probe = Probe(new.version, embedder.embed(images))
        for rho in STOPS:
            wanted = round(rho * plan.items) - (
                gallery.count_items() - gallery.count_pending(new.version)
            )
            if wanted > 0:
                self._command(f"migrate run {GALLERY} --limit {wanted}")
                migration.run(embedder, progress=self.progress, limit=wanted)
            result.stops.append(self._search(gallery, probe))
        run = migration.run(embedder, progress=self.progress)
        self.say(f"{run.state}: {run.left} left")
        self._command(f"migrate verify {GALLERY}")
        verified = migration.verify()
        self.say(
            f"verified: {verified.compared} faces embedded again, worst d² {verified.worst:.1e}; "
            f"{verified.searched} found end to end"
        )
        self._command(f"migrate complete {GALLERY} --yes")
        migration.complete(yes=True, grace=0.0)
        self.say(f"{GALLERY}: {migration.status().state}")

    def _show_blue_green(self, new: Version) -> None:
        self.say(
            "\nThe gate says NO-GO: serving mixed would fall short of what v1 gives today, as the\n"
            "failed checks say. The safe road is blue-green: backfill first, cut over at the end:"
        )
        for step in ("start", "run", "verify", "cutover", "complete"):
            extra = f" --to {new.version} --strategy blue-green" if step == "start" else ""
            self.say(f"  {self._segue} migrate {step} {GALLERY}{extra}")
        self.say("The demo goes on in mixed mode, by an override that the ledger keeps:")

    def _search(self, gallery: Gallery, probe: Probe) -> Stop:
        """Search every probe; count right first hits, and hits below the one threshold."""
        found = gallery.search(probe, k=20)
        truth = [face.person for face in self.probes.faces]
        rank1 = np.mean([hits[0].identity == t for hits, t in zip(found, truth, strict=True)])
        below = [[h for h in hits if h.far is not None and h.far <= SEARCH_FAR] for hits in found]
        own = [any(h.identity == t for h in hits) for hits, t in zip(below, truth, strict=True)]
        others = [sum(h.identity != t for h in hits) for hits, t in zip(below, truth, strict=True)]
        rho = 1 - gallery.count_pending(probe.version) / gallery.count_items()
        stop = Stop(rho, float(rank1), float(np.mean(own)), float(np.mean(others)))
        self.say(
            f"searched {len(truth)} probes at ρ = {rho:.2f}: rank-1 {stop.rank1:.3f}, found at "
            f"FAR {SEARCH_FAR:g} {stop.found:.3f}, false hits {stop.false_hits:.2f} a search"
        )
        return stop


def split_probes(faces: FaceList) -> tuple[FaceList, FaceList]:
    """Take the last image of everybody with two or more as probe; the rest is stored."""
    last = {face.person: index for index, face in enumerate(faces.faces)}
    counts = np.bincount(faces.labels)
    people = faces.people
    several = {people[label] for label in np.flatnonzero(counts >= 2)}
    probes = {index for person, index in last.items() if person in several}
    stored = tuple(face for index, face in enumerate(faces.faces) if index not in probes)
    kept = tuple(face for index, face in enumerate(faces.faces) if index in probes)
    return FaceList(stored, faces.root), FaceList(kept, faces.root)


def _close(result: DemoResult, say: Callable[[str], None], *, drawn: bool) -> None:
    from segue.evaluation.report import summarise

    compatibility = result.compatibility
    say(f"\n{summarise(compatibility.report)}")
    say("\nSearches of the gallery while it migrated, at one threshold:")
    say(f"{'ρ':>6}  {'rank-1':>7}  {'found':>7}  {'false hits a search':>20}")
    for stop in result.stops:
        say(f"{stop.rho:6.2f}  {stop.rank1:7.3f}  {stop.found:7.3f}  {stop.false_hits:20.2f}")
    if drawn:
        say(f"\nAll figures are of {NOTICE}.")
    say(f"\nROC picture   {compatibility.folder / 'roc.png'}")
    say(f"report        {compatibility.folder / 'report.md'}")
    say(
        f"MLflow page   {Path(sys.executable).with_name('mlflow')} ui --backend-store-uri "
        f"sqlite:///{(result.workspace / 'mlflow.db').resolve()}"
    )
    say(f"done in {result.seconds / 60:.1f} minutes")
