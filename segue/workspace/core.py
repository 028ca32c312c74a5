"""A workspace: one folder with its database, models, reports and galleries."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.database import Database
from segue.errors import MissingPathError, NoWorkspaceError, WorkspaceError
from segue.files import translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.evaluation.verification import Verification
    from segue.index import Answer, Enrolment, Gallery, Hit, PairResult, Probe, Threshold
    from segue.migrations import Migration, Plan
    from segue.registry import Registry, Version
    from segue.train import HarmonicSettings, TrainSettings
    from segue.types import Progress
    from segue.workspace.bridging import TrainedBridge
    from segue.workspace.compatibility import Compatibility
    from segue.workspace.matrix import Matrix
    from segue.workspace.retuning import Retuned

from segue.types import check_seed, no_progress

DATABASE_NAME = "segue.db"


class Workspace:
    """A folder that holds everything Segue knows: open it, then use its methods.

    `Workspace.init(path)` makes an empty one, `Workspace.open(path)` opens one that is there. The
    environment variable `SEGUE_DATABASE_URL` puts the database elsewhere (PostgreSQL).
    """

    def __init__(self, root: Path, database: Database) -> None:
        self.root, self.database = root, database

    @classmethod
    def init(cls, root: Path | str) -> Workspace:
        """Make an empty workspace.

        Raises:
            WorkspaceError: there is one already.
            ReadOnlyError, DiskFullError: the folder cannot be written.
        """
        root = Path(root)
        if (root / DATABASE_NAME).exists():
            raise WorkspaceError(f"{root} is a workspace already; use it, or choose another folder")
        if root.exists() and not root.is_dir():
            raise WorkspaceError(f"{root} is a file; choose a folder")
        with translated(root):
            root.mkdir(parents=True, exist_ok=True)
        database = Database(_location(root))
        database.create()
        return cls(root, database)

    @classmethod
    def open(cls, root: Path | str) -> Workspace:
        """Open a workspace.

        Raises:
            NoWorkspaceError: there is none.
            FormatError: it was written by a newer Segue.
        """
        root = Path(root)
        if not (root / DATABASE_NAME).is_file() and "SEGUE_DATABASE_URL" not in os.environ:
            raise NoWorkspaceError(root)
        database = Database(_location(root))
        database.check_format()
        return cls(root, database)

    @cached_property
    def registry(self) -> Registry:
        """The embedding versions, their edges, reports and ledger."""
        from segue.registry import Registry

        return Registry(self.database, self.root)

    # --- training ---------------------------------------------------------------------------

    def train_base(
        self,
        name: str,
        data: Path | str,
        settings: TrainSettings,
        *,
        old_only: bool = False,
        progress: Progress = no_progress,
    ) -> Version:
        """Train a network of its own space on part `train` of `data`, and register it.

        With `old_only`, on the half of those people that a v1 is trained on (`v1` in people.csv).
        A killed training goes on when the same call is made again.
        """
        from segue.workspace import training

        return training.train_base(
            self, name, Path(data), settings, old_only=old_only, progress=progress
        )

    def train_harmonic(
        self,
        data: Path | str,
        settings: HarmonicSettings,
        *,
        old: str,
        start: str,
        old_vectors: Path | None = None,
        twin: bool = True,
        progress: Progress = no_progress,
    ) -> tuple[Version, Version | None]:
        """Train `start` on to be harmonic with `old`, and its twin; return both versions.

        `old_vectors` names a file with v1's vectors of the training images, for an old version
        that has no model. `old` may be a retuned version; such a file then holds the vectors of
        the version that it retunes, which are mapped.
        """
        from segue.workspace import training

        return training.train_harmonic(
            self,
            Path(data),
            settings,
            old=old,
            start=start,
            old_vectors=old_vectors,
            twin=twin,
            progress=progress,
        )

    def train_bridge(
        self,
        data: Path | str,
        *,
        old: str,
        new: str,
        kind: str = "best",
        direction: str = "new-to-old",
        part: str = "validation",
        old_vectors: Path | None = None,
        replace: bool = False,
        seed: int = 0,
        progress: Progress = no_progress,
    ) -> TrainedBridge:
        """Fit a bridge between two versions that were not trained together, and save its edge.

        The edge new -> old (old -> new with `direction` "old-to-new") compares through the bridge
        from then on, once `calibrate` or `evaluate_compatibility` has measured it. Outputs
        `embedding` are joined; dimensions may differ.

        Args:
            data: faces; the bridge is fitted on the people of `part`, at most ten images of each.
            old: the deployed version.
            new: the version to upgrade to.
            kind: a registered kind of bridge, or `best`: the one that does best on held-out people.
            direction: `new-to-old` or `old-to-new`.
            part: `validation` or `calibration`; no result may be of the same people.
            old_vectors: a file with the old version's vectors, for one that has no model; its form
                is that of `train_harmonic`.
            replace: take the place of an edge that is calibrated already.
            seed: of the folds and of the network's weights.
            progress: told while embedding.

        Raises:
            UsageError: two times one version, a calibrated edge without `replace`, people whom one
                of the versions learned from, or a seed that is none.
            UnknownNameError: no such kind, direction or part.
            UnknownVersionError, NoModelError: no such version, or it has no model.
            PeopleError: too few people to choose on.
        """
        from segue.workspace import bridging

        check_seed(seed)
        return bridging.train_bridge(
            self,
            old,
            new,
            Path(data),
            kind=kind,
            direction=direction,
            part=part,
            old_vectors=old_vectors,
            replace_calibrated=replace,
            seed=seed,
            progress=progress,
        )

    def retune(
        self,
        old: str,
        data: Path | str,
        *,
        old_vectors: Path | None = None,
        seed: int = 0,
        progress: Progress = no_progress,
    ) -> Retuned:
        """Fit a map of the deployed version's own vectors, and register what it makes.

        `faces/1~b1` holds the vectors of faces/1 in a space of their own in which people are told
        apart better: the map is learned from vectors and labels of all people of part `train`,
        without images. A gallery's stored vectors are mapped by a migration to it, and a new
        version is trained to be harmonic with it.

        Args:
            old: the deployed version.
            data: faces; fitted on part `train`, told on part `validation`, calibrated on part
                `calibration`, where there are such people.
            old_vectors: a file with the version's vectors, for one that has no model; its form is
                that of `train_harmonic`.
            seed: of the batches.
            progress: told while embedding.

        Raises:
            UsageError: the version is mapped already, or it learned from people of the other parts.
            PeopleError: too few people with two images or more.
            VectorError: the file lacks a training image, or holds another model's vectors.
            UnknownVersionError, NoModelError: no such version, or it has no model.
        """
        from segue.workspace import retuning

        check_seed(seed)
        return retuning.retune(
            self, old, Path(data), old_vectors=old_vectors, seed=seed, progress=progress
        )

    # --- measuring --------------------------------------------------------------------------

    def evaluate_verification(
        self, reference: str, data: Path | str, progress: Progress = no_progress
    ) -> Verification:
        """Measure ten-fold accuracy on `DATA/pairs.txt` with `DATA/images`, as LFW does."""
        from segue.workspace import measuring

        return measuring.verification(self, reference, Path(data), progress)

    def evaluate_compatibility(
        self,
        old: str,
        new: str,
        data: Path | str,
        *,
        twin: str | None = None,
        old_vectors: Path | None = None,
        part: str = "validation",
        bootstrap: int = 200,
        seed: int = 0,
        progress: Progress = no_progress,
    ) -> Compatibility:
        """Measure an upgrade on people kept out of training; store edges, report and gate.

        Everything is compared with `old` as it is: a gallery that was moved to a retuned version
        must not fall below that. `old_vectors` names a file with v1's vectors of the images, for an
        old version that has no model; its form is that of `train_harmonic`.

        Raises:
            UsageError: people whom a version, its twin or a bridge learned from; of versions that
                keep no marks of their people the report says that it is not known.
        """
        from segue.workspace import compatibility

        check_seed(seed)
        return compatibility.compatibility(
            self,
            old,
            new,
            Path(data),
            twin=twin,
            old_vectors=old_vectors,
            part=part,
            bootstrap=bootstrap,
            seed=seed,
            progress=progress,
        )

    def evaluate_matrix(
        self,
        references: Sequence[str],
        data: Path | str,
        *,
        part: str = "validation",
        fars: Sequence[float] = (1e-2, 1e-3),
        bootstrap: int = 200,
        seed: int = 0,
        save_edges: bool = False,
        progress: Progress = no_progress,
    ) -> Matrix:
        """Measure every ordered pair of two or more versions; what does not compare is marked.

        An edge that is stored is measured as it says (its outputs, its bridge), any other by the
        first outputs of one dimension. With `save_edges` the edges of versions that training or a
        bridge put into one space are stored, calibrated on part `calibration`. Pairs that nobody
        trained for each other are measured and never stored: a search would rank by noise.

        Raises:
            UsageError: fewer than two versions, one of them twice, or people whom a version or a
                bridge learned from.
            UnknownNameError: `part` is none that a report may be of.
            UnknownVersionError, NoModelError: no such version, or it has no model.
        """
        from segue.workspace import matrix

        check_seed(seed)
        return matrix.matrix(
            self,
            references,
            Path(data),
            part=part,
            fars=fars,
            bootstrap=bootstrap,
            seed=seed,
            save_edges=save_edges,
            progress=progress,
        )

    def calibrate(
        self,
        probe: str,
        data: Path | str,
        *,
        stored: str | None = None,
        part: str = "calibration",
        old_vectors: Path | None = None,
        progress: Progress = no_progress,
    ) -> dict[str, Any]:
        """Measure the edge probe -> stored (itself by default) on calibration people.

        `old_vectors` names a file with the vectors of the version that has no model; its form is
        that of `train_harmonic`.

        Raises:
            UsageError: people whom a version or the edge's bridge learned from.
            EvaluationError: too few people, or two versions that nothing put into one space and
                that do not tell people apart.
        """
        from segue.workspace import measuring

        return measuring.calibrate(
            self,
            probe,
            Path(data),
            stored=stored,
            part=part,
            old_vectors=old_vectors,
            progress=progress,
        )

    def calibrate_from_gallery(self, gallery: str, *, seed: int = 0) -> dict[str, Any]:
        """Calibrate a gallery's serving version on random pairs of different identities in it."""
        from segue.workspace import measuring

        return measuring.calibrate_from_gallery(self, gallery, check_seed(seed))

    # --- galleries --------------------------------------------------------------------------

    def create_gallery(self, name: str, serving: str, *, codec: str = "float32") -> Gallery:
        """Create an empty gallery served by a version or alias (`faces@serving`)."""
        from segue.index import Gallery

        version = self.registry.resolve(serving).version
        return Gallery.create(self.database, self.root, name, serving=version, codec=codec)

    def gallery(self, name: str) -> Gallery:
        """Open a gallery.

        Raises:
            UnknownGalleryError: there is none of that name.
        """
        from segue.index import Gallery

        return Gallery(self.database, self.root, name)

    def galleries(self) -> list[str]:
        """Return the names of all galleries."""
        from segue.index import list_galleries

        return list_galleries(self.database)

    def enroll(
        self,
        gallery: str,
        folder: Path | str,
        *,
        identity: str | None = None,
        replace: bool = False,
        progress: Progress = no_progress,
    ) -> Enrolment:
        """Enrol `FOLDER/IDENTITY/IMAGE`, or one person's images, with the serving version."""
        from segue.workspace import enrolling

        return enrolling.enroll(
            self, gallery, Path(folder), identity=identity, replace=replace, progress=progress
        )

    def probe(self, gallery: str, images: Sequence[Path]) -> Probe:
        """Embed images with a gallery's serving version.

        Raises:
            ImageError: one of them cannot be decoded.
        """
        from segue.workspace import enrolling

        return enrolling.probe(self, gallery, images)

    def search(
        self,
        gallery: str,
        images: Sequence[Path],
        *,
        k: int = 10,
        threshold: Threshold | None = None,
        inline_milliseconds: int = 0,
    ) -> list[list[Hit]]:
        """Search a gallery by image files; touched old items are migrated first.

        With `inline_milliseconds` and an open migration, hits of the old version are re-embedded
        within the query, for about so long.
        """
        return self.answer(
            gallery,
            images,
            k=k,
            threshold=threshold,
            inline_milliseconds=inline_milliseconds,
        ).hits

    def answer(
        self,
        gallery: str,
        images: Sequence[Path],
        *,
        k: int = 10,
        threshold: Threshold | None = None,
        inline_milliseconds: int = 0,
    ) -> Answer:
        """Return what `search` returns, and what the threshold came to in that search."""
        from segue.workspace import enrolling

        return enrolling.answer(
            self,
            gallery,
            images,
            k=k,
            threshold=threshold,
            inline_milliseconds=inline_milliseconds,
        )

    def verify_images(
        self, gallery: str, first: Path, second: Path, threshold: Threshold
    ) -> PairResult:
        """Tell whether two images show the same person, at a threshold."""
        from segue.workspace import enrolling

        return enrolling.verify_images(self, gallery, first, second, threshold)

    # --- migrations -------------------------------------------------------------------------

    def plan(
        self,
        gallery: str,
        target: str,
        *,
        strategy: str | None = None,
        order: str = "oldest",
        batch: int = 256,
    ) -> Plan:
        """Plan a migration of `gallery` to the version `target`; nothing is changed."""
        from segue.migrations import Migration

        version = self.registry.resolve(target).version
        opened = self.gallery(gallery)
        return Migration.plan(
            self.database,
            self.root,
            self.registry,
            opened,
            version,
            strategy=strategy,
            order=order,
            batch=batch,
        )

    def start(self, plan: Plan, *, force: str | None = None) -> Migration:
        """Start a planned migration; `force` is the reason for overriding a NO-GO."""
        from segue.migrations import Migration

        opened = self.gallery(plan.gallery)
        return Migration.start(plan, self.database, self.root, self.registry, opened, force=force)

    def migration(self, gallery: str) -> Migration:
        """Open the migration of a gallery.

        Raises:
            UnknownMigrationError: it has none.
        """
        from segue.migrations import Migration

        return Migration(self.database, self.root, self.registry, self.gallery(gallery))

    # --- the workspace itself ---------------------------------------------------------------

    def doctor(self) -> list[str]:
        """Check the database and all that it names; return what is wrong and what to do.

        That is models, bridges, calibrations, reports and galleries.
        """
        from segue.workspace import doctor

        return doctor.examine(self)

    def backup(self, target: Path | str) -> None:
        """Copy catalog, segments, models and reports into a new folder."""
        from segue.index.backup import backup

        backup(self.database, self.root, Path(target))

    def restore(self, source: Path | str) -> None:
        """Put a backup back; items erased here since stay erased, and the ledger says so."""
        from segue.index.backup import restore
        from segue.registry import record

        source = Path(source)
        if not source.is_dir():
            raise MissingPathError(source, "backup folder")
        restore(source, self.database, self.root)
        with self.database.write() as connection:
            record(connection, "restore", "workspace", "everything is as the backup knew it")


def _location(root: Path) -> Path | str:
    return os.environ.get("SEGUE_DATABASE_URL", "") or root / DATABASE_NAME
