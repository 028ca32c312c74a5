"""A gallery: stored faces, their vectors by embedding version, and search over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import GalleryExistsError, UnknownItemError, UsageError
from segue.index import catalog
from segue.index.check import check_gallery
from segue.index.codec import check_codec
from segue.index.commit import FRESH_BELOW
from segue.index.compact import compact_gallery, gallery_files
from segue.index.edges import Ways
from segue.index.enroll import enroll_given, enroll_images
from segue.index.erase import erase_items
from segue.index.nearest import NearestItems
from segue.index.pending import PendingItems
from segue.index.query import run_query
from segue.index.reembed import commit_batch, map_items, reembed_items
from segue.index.remove import remove_rows, remove_unneeded
from segue.index.search import Searcher
from segue.index.shelf import Shelf
from segue.index.staging import WAIT_SECONDS
from segue.index.stats import count_gallery, sample_rows
from segue.index.touched import TouchLog
from segue.index.transfer import normalised, read_file, write_file
from segue.types import DEFAULT_OUTPUT, VectorMapper, check_name, no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    import sqlalchemy as sa

    from segue.database import Database
    from segue.index.catalog import GalleryRow
    from segue.index.items import (
        Answer,
        AppliedThreshold,
        Enrolment,
        Erasure,
        GalleryStats,
        Hit,
        NewItem,
        PairResult,
        Probe,
        Reembedded,
        StoredItem,
        StoredRow,
        Threshold,
    )
    from segue.index.leases import Lease
    from segue.index.snapshot import View
    from segue.types import Bools, Embedder, Floats, Progress


def list_galleries(database: Database) -> list[str]:
    """Return the names of a workspace's galleries, sorted."""
    with database.read() as connection:
        return catalog.list_names(connection)


class Gallery:
    """One gallery of a workspace; safe to share between threads, and with other processes.

    Args:
        database: the workspace's database.
        root: the workspace's folder.
        name: the gallery.

    Raises:
        UnknownGalleryError: there is none of that name.
    """

    def __init__(self, database: Database, root: Path, name: str) -> None:
        self.database, self.root, self.name = database, root, name
        self._shelf = Shelf(database, root, name)
        self._row()
        ways = Ways(self._shelf)
        self._searcher = Searcher(self._shelf, ways, NearestItems(self._shelf))
        self._pending = PendingItems(self._shelf)
        self._touched = TouchLog(self._shelf)

    @classmethod
    def create(
        cls, database: Database, root: Path, name: str, *, serving: str, codec: str = "float32"
    ) -> Gallery:
        """Create an empty gallery whose probes and new items are embedded by `serving`.

        Raises:
            GalleryExistsError: the name is taken.
            InvalidNameError, UnknownNameError: no name, or no codec.
            UnknownVersionError: the version is not registered.
        """
        check_name(name, "gallery")
        check_codec(codec)
        with database.write() as connection:
            if name in catalog.list_names(connection):
                raise GalleryExistsError(name)
            catalog.version_outputs(connection, serving)
            catalog.insert_gallery(connection, name, serving, codec)
        return cls(database, root, name)

    def __repr__(self) -> str:
        return f"Gallery({self.name!r})"

    # --- what it is -------------------------------------------------------------------------

    @property
    def serving(self) -> str:
        """The version that embeds probes and new items."""
        return self._row().serving

    @property
    def preference(self) -> tuple[str, ...]:
        """The versions that an item may be live in, most preferred first."""
        return self._row().preference

    @property
    def companions(self) -> tuple[str, ...]:
        """The versions that a new item is embedded by beside the serving one."""
        return self._row().companions

    @property
    def codec(self) -> str:
        """How vectors are stored: `float32` or `int8`."""
        return self._row().codec

    def outputs_needed(self, version: str) -> tuple[str, ...]:
        """Return the outputs of `version` that are stored: its own, and those that edges name."""
        with self.database.read() as connection:
            row = catalog.read_gallery(connection, self.name)
            catalog.version_outputs(connection, version)
            return catalog.outputs_needed(connection, row, version)

    def set_serving(
        self,
        connection: sa.Connection,
        serving: str,
        preference: list[str],
        companions: list[str],
        *,
        reason: str | None = None,
    ) -> None:
        """Change what serves, inside somebody's transaction; the ledger keeps what served before.

        Raises:
            UnknownVersionError: one of the versions is not registered.
            UsageError: `serving` does not lead `preference`.
        """
        if not preference or preference[0] != serving:
            raise UsageError(f"{serving} is to serve, so that it leads the preferred versions")
        row = catalog.read_gallery(connection, self.name, lock=True)
        for version in (*preference, *companions):
            catalog.version_outputs(connection, version)
        if serving != row.serving or reason is not None:
            catalog.record_serving(connection, row, serving, reason, companions=list(companions))
        catalog.update_gallery(
            connection,
            self.name,
            serving=serving,
            preference=list(preference),
            companions=list(companions),
        )
        catalog.bump(connection, row)

    # --- items in ---------------------------------------------------------------------------

    def enroll(
        self,
        items: Iterable[NewItem],
        embedders: Sequence[Embedder],
        *,
        replace: bool = False,
        batch: int = 256,
        fresh: bool | None = None,
        progress: Progress = no_progress,
    ) -> Enrolment:
        """Read, embed and enrol images, as one commit.

        Images that cannot be read or embedded are reported, the others are enrolled.

        Args:
            items: their `source` is read; relative paths are stored as absolute ones.
            embedders: the serving version's, then the companions'.
            replace: whether items that are there already give way.
            batch: images embedded at a time.
            fresh: whether rows land in the catalog; by default for fewer than 1000 items.
            progress: told after each batch.

        Raises:
            DuplicateItemError: an item is there already; nothing was changed.
            DataError: unusable ids; nothing was changed.
            UsageError: the embedders are not the gallery's versions.
        """
        return enroll_images(
            self._shelf,
            items,
            embedders,
            replace=replace,
            batch=batch,
            fresh=fresh,
            progress=progress,
        )

    def enroll_vectors(
        self,
        items: Sequence[NewItem],
        version: str,
        vectors: Mapping[str, Floats],
        *,
        replace: bool = False,
        fresh: bool | None = None,
    ) -> int:
        """Enrol items with vectors made elsewhere, as one commit; return how many.

        Args:
            items: N items.
            version: the version that made the vectors, one of the gallery's.
            vectors: by output, unit float [N, d]; those of `outputs_needed(version)` at least.
            replace: whether items that are there already give way.
            fresh: whether rows land in the catalog; by default for fewer than 1000 items.

        Raises:
            VectorError, DataError: bad vectors or ids; nothing was changed.
            DuplicateItemError: an item is there already; nothing was changed.
            GalleryError: the version is none of the gallery's.
        """
        return enroll_given(self._shelf, items, version, vectors, replace=replace, fresh=fresh)

    def import_file(
        self,
        path: Path,
        version: str,
        output: str = DEFAULT_OUTPUT,
        *,
        ids: Path | None = None,
        normalise: bool = False,
        replace: bool = False,
    ) -> int:
        """Enrol what a .parquet or .npy file holds, as one commit; return how many items.

        Args:
            path: columns `item_id` and `vector`, and if it has them `identity`, `source`,
                `source_sha256`, `version`, `output`; or a .npy array [N, d].
            version: the version that made the vectors.
            output: its output, where the file does not say.
            ids: of a .npy file: .txt with an id on each line, or .csv; by default beside it.
            normalise: divide each vector by its length first.
            replace: whether items that are there already give way.

        Raises:
            MissingPathError, DataError, VectorError, DuplicateItemError: nothing was changed.
        """
        imported = read_file(path, version, output, ids)
        if normalise:
            imported = normalised(imported)
        return self.enroll_vectors(imported.items, version, imported.vectors, replace=replace)

    # --- items out --------------------------------------------------------------------------

    def search(
        self,
        probe: Probe,
        k: int = 10,
        threshold: Threshold | None = None,
        *,
        touch: bool = True,
    ) -> list[list[Hit]]:
        """Return, for each vector of the probe, its k best live items, best first.

        Every live item can be found, whatever version it is live in. With `touch`, items found by
        an old version's vector are noted for a migration, without waiting for it.

        Raises:
            UnmeasuredEdgeError: an item is live in a version without a measured edge.
            VectorError: vectors that are not of the probe's version.
            GalleryError: the threshold needs a calibration that is not there.
            UnsupportedFarError: the threshold is, or is translated into, a FAR below what a
                calibration supports.
        """
        return self.answer(probe, k, threshold, touch=touch).hits

    def answer(
        self,
        probe: Probe,
        k: int = 10,
        threshold: Threshold | None = None,
        *,
        touch: bool = True,
    ) -> Answer:
        """Return what `search` returns, and what the threshold came to in that search.

        Args and errors as of `search`.
        """
        answer, row = self._searcher.search(probe, k, threshold)
        if touch:
            self._touch(answer.hits, row)
        return answer

    def rank_merge(
        self,
        probes: Sequence[Probe],
        k: int = 10,
        threshold: Threshold | None = None,
        *,
        by: str = "far",
        touch: bool = True,
    ) -> list[list[Hit]]:
        """Return the k best live items of images that several versions embedded, best first.

        Each item is compared with the probe of the version it is live in, and with no other: the
        serving baseline that needs no edge between versions, but every model at every query. A
        gallery whose items are all live in one version is ranked by distance.

        Args:
            probes: the same N images, in the same order, by each version that items are live in.
            k: how many.
            threshold: as in `search`.
            by: what the versions' lists merge by: `far`, the false accept rate of each version
                compared with itself, or `distance`, as it is.
            touch: as in `search`.

        Raises:
            UnknownNameError: `by` is neither.
            UsageError: two probes of one version, or of unequal numbers of vectors.
            GalleryError: items are live in a version without a probe, or without a calibration.
            VectorError, UnsupportedFarError: as `search`.
        """
        answer, row = self._searcher.rank_merge(probes, k, threshold, by)
        if touch:
            self._touch(answer.hits, row)
        return answer.hits

    def check_search(
        self, threshold: Threshold | None = None, *, version: str = ""
    ) -> AppliedThreshold | None:
        """Refuse what a search would be refused for, before its probe is embedded.

        Args:
            threshold: the threshold to be searched with.
            version: the probe's version; the serving one if empty.

        Returns:
            what the threshold comes to on the edges that are searched; None if there is none.

        Raises:
            UnmeasuredEdgeError, GalleryError, UnsupportedFarError: as `search`.
        """
        return self._searcher.check(version or self.serving, threshold)

    def _touch(self, hits: list[list[Hit]], row: GalleryRow) -> None:
        """Note the items that were found by an old version's vector."""
        old = {hit.seq for found in hits for hit in found if hit.version != row.serving}
        if old:
            self._touched.add(old, row.generation)

    def verify_pair(self, a: Probe, b: Probe, threshold: Threshold | None = None) -> PairResult:
        """Compare two single vectors over the edge from `a`'s version to `b`'s.

        Raises:
            UnmeasuredEdgeError, VectorError, GalleryError, UnsupportedFarError: as `search`.
        """
        return self._searcher.compare(a, b, threshold)

    def item(self, item_id: str) -> list[StoredRow]:
        """Return every stored row of an item, by version and output.

        Raises:
            UnknownItemError: there is no such item.
        """

        def read(view: View) -> list[StoredRow]:
            seq = view.find([item_id]).get(item_id)
            if seq is None:
                raise UnknownItemError(item_id, self.name)
            return [row for key in view.keys for row in view.rows_of(key, seq)]

        return self._shelf.reading(read)

    def export(
        self, path: Path, *, version: str | None = None, output: str = DEFAULT_OUTPUT
    ) -> int:
        """Write vectors as float32 to a .parquet file, or a .npy file with a .csv beside it.

        Args:
            path: where; a file that is there is replaced.
            version: whose rows; by default each item's live one.
            output: which output.

        Returns:
            How many rows.

        Raises:
            UsageError, DataError, DiskFullError, ReadOnlyError: nothing was written.
        """
        return self._shelf.reading(lambda view: write_file(view, path, version, output))

    def sql(self, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run a DuckDB query over the views `embeddings` and `live`; return columns and rows.

        `embeddings` has every stored row, `live` each item's row of its most preferred version,
        both with the columns of a segment. The query reads one snapshot and reaches neither files
        nor network.

        Raises:
            UsageError: DuckDB refuses the query.
        """
        return run_query(self._shelf, query)

    def sample_vectors(self, version: str, limit: int, seed: int = 0) -> tuple[Floats, list[str]]:
        """Return the vectors [N, d] and identities of random items that have an identity."""

        def draw(view: View) -> tuple[Floats, list[str]]:
            return sample_rows(view, version, limit, seed)

        return self._shelf.reading(draw)

    def stats(self) -> GalleryStats:
        """Return the gallery in numbers."""
        return self._shelf.reading(count_gallery)

    def count_items(self) -> int:
        """Return the number of live items."""
        return self._shelf.reading(lambda view: int(np.count_nonzero(view.alive())))

    # --- erasing and tending ----------------------------------------------------------------

    def erase(
        self,
        item_ids: Sequence[str] = (),
        *,
        identity: str | None = None,
        wait: float = WAIT_SECONDS,
    ) -> Erasure:
        """Erase items, or every item of one identity, for good.

        On return they are never served nor written again. With `swept` they are in no file and no
        row of this gallery any more; if a reader or writer was in the way for `wait` seconds, the
        same call finishes it.

        Raises:
            UnknownItemError: an item is not there; nothing was changed.
        """
        return erase_items(self._shelf, item_ids, identity, wait)

    def compact(self, *, wait: float = WAIT_SECONDS) -> None:
        """Fold fresh rows, sweep tombstones, merge small segments, remove leftovers.

        Raises:
            LockedError: a reader or writer was in the way for `wait` seconds.
        """
        compact_gallery(self._shelf, wait)

    def files(self) -> list[Path]:
        """Fold fresh rows and return the Parquet files that hold the gallery, for any reader.

        Raises:
            LockedError: an erased item could not be swept out of them yet.
        """
        return gallery_files(self._shelf)

    def check(self) -> list[str]:
        """Read everything and return what is wrong: checksums, key files, uniqueness, live rows."""
        return check_gallery(self._shelf)

    # --- for migrations ---------------------------------------------------------------------

    def count_pending(self, target: str) -> int:
        """Return how many live items lack a row of `target`, in any output that it needs.

        Raises:
            UnknownVersionError: the version is not registered.
        """
        return self._pending.count(target)

    def stored_in(self, version: str) -> Bools:
        """Return which items have a vector of a version: bool by `seq`."""
        return self._shelf.reading(lambda view: view.mask(version).copy())

    def pending(
        self,
        target: str,
        *,
        order: str = "oldest",
        limit: int = FRESH_BELOW,
        skip: Collection[int] = (),
        seed: int = 0,
    ) -> list[StoredItem]:
        """Return the next items to embed by `target`: touched ones first, then by `order`.

        Raises:
            UnknownNameError: the order is none of oldest, random and farthest.
            UnknownVersionError: the version is not registered.
        """
        return self._pending.take(target, order, limit, skip, seed)

    def reembed(
        self, items: Sequence[StoredItem], embedder: Embedder, *, check_source: bool = True
    ) -> Reembedded:
        """Embed stored items anew from their images; nothing is written.

        With `check_source`, an image that is not the one enrolled (by sha256) is a failure. An
        embedder that maps another version's vectors (a retuned version) takes those that are
        stored, and images only of items without one.
        """
        outputs = self.outputs_needed(embedder.version)
        if isinstance(embedder, VectorMapper):
            return map_items(
                self._shelf, items, embedder, embedder, outputs, check_source=check_source
            )
        return reembed_items(items, embedder, outputs, check_source=check_source)

    def commit_reembedded(
        self,
        batch: Reembedded,
        *,
        lease: Lease,
        also: Callable[[sa.Connection], None] | None = None,
    ) -> int:
        """Write a batch in one commit, together with `also`; return how many items.

        Items erased or replaced since, or written by another worker, are left out.

        Raises:
            LockedError: the lease is somebody else's now; nothing was changed.
        """
        as_fresh = len(batch.items) < FRESH_BELOW
        return commit_batch(self._shelf, batch, lease, also, as_fresh=as_fresh)

    def remove_version(
        self,
        version: str,
        *,
        keep_only_there: bool,
        also: Callable[[sa.Connection], None] | None = None,
    ) -> int:
        """Remove a version's rows in one commit, together with `also`; return how many.

        With `keep_only_there`, items that no other preferred version has keep theirs.

        Raises:
            ItemsLeftError: there are such items and they may not stay; nothing was changed.
            LockedError: others kept committing; nothing was changed.
        """
        return remove_rows(self._shelf, version, keep_only_there=keep_only_there, also=also)

    def remove_unneeded(self, version: str) -> int:
        """Remove a version's rows of outputs that `outputs_needed` does not name; return how many.

        A head for the old version is such an output once nothing old is left.

        Raises:
            LockedError: others kept committing; nothing was changed.
        """
        return remove_unneeded(self._shelf, version)

    def flush_touched(self) -> None:
        """Wait until touched items are written; for a process that is about to end."""
        self._touched.flush()

    def _row(self) -> GalleryRow:
        with self.database.read() as connection:
            return catalog.read_gallery(connection, self.name)
