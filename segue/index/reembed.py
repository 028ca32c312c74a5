"""Reading images and embedding them: for enrolling, and for one batch of a migration."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import numpy as np

from segue.errors import ImageError, NoModelError, UsageError, VectorError
from segue.files import sha256_bytes
from segue.images import decode, read_bounded
from segue.index import catalog
from segue.index.commit import publish
from segue.index.items import Reembedded, seqs_of
from segue.index.rows import rows_of
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import sqlalchemy as sa

    from segue.index.items import StoredItem
    from segue.index.leases import Lease
    from segue.index.rows import Rows
    from segue.index.shelf import Shelf
    from segue.index.snapshot import View
    from segue.types import Bools, Embedder, Floats, Images, Ints, VectorMapper


NO_VECTOR = "it has no stored vector to map, and there is no model for its image"
"""Why an item has no vector of a version that maps another's vectors."""

NOT_FINITE = "the model gave no usable vector (NaN or infinity)"
"""Why an image that was decoded has no vector."""


def read_source(source: str | None) -> bytes:
    """Read the file that an item's `source` names: a path or a `file://` URI.

    Raises:
        ImageError: there is none, it is no regular file, cannot be read, or is larger than
            `images.MAX_BYTES`; the reason holds no path.
    """
    if not source:
        raise ImageError("of an item", "the item has no source")
    path = source_path(source)
    if path is None:
        raise ImageError("of an item", "its source is no file; only paths and file:// can be read")
    try:
        return read_bounded(path)
    except ImageError as error:
        raise ImageError("of an item", error.reason) from error


def source_path(source: str) -> Path | None:
    """Return the path that a source names, or None if it is another kind of URI, or no path.

    >>> source_path("file:///faces/a%20b.jpg")
    PosixPath('/faces/a b.jpg')
    >>> source_path("s3://bucket/a.jpg") is None
    True
    """
    name = source
    if "://" in source:
        try:
            parts = urlsplit(source)
        except ValueError:
            return None
        if parts.scheme != "file":
            return None
        name = unquote(parts.path)
    return None if "\0" in name else Path(name)


def reembed_items(
    items: Sequence[StoredItem],
    embedder: Embedder,
    outputs: Sequence[str],
    *,
    check_source: bool,
) -> Reembedded:
    """Embed stored items from their images; nothing is written.

    Returns:
        The batch; an item whose image is missing, changed or undecodable, or whose vector is NaN,
        is among its failures.
    """
    images: list[Images] = []
    read: list[StoredItem] = []
    failed: list[tuple[int, str]] = []
    for item in items:
        try:
            content = read_source(item.source)
            if check_source:
                _check_same(content, item.source_sha256)
            images.append(decode(content, embedder.input_size))
            read.append(item)
        except ImageError as error:
            failed.append((item.seq, error.reason))
    vectors, good = embed_images(embedder, images, outputs)
    kept = tuple(item for item, fine in zip(read, good.tolist(), strict=True) if fine)
    failed += [
        (item.seq, NOT_FINITE) for item, fine in zip(read, good.tolist(), strict=True) if not fine
    ]
    return Reembedded(embedder.version, kept, vectors, tuple(failed))


def map_items(
    shelf: Shelf,
    items: Sequence[StoredItem],
    embedder: Embedder,
    mapper: VectorMapper,
    outputs: Sequence[str],
    *,
    check_source: bool,
) -> Reembedded:
    """Map stored vectors of `mapper.base`; items that have none are embedded from their images.

    `mapper` is the embedder. No image of an item with such a vector is read. Nothing is written.
    """
    wanted = seqs_of(items)
    key = (mapper.base, DEFAULT_OUTPUT)
    seqs, vectors = shelf.reading(lambda view: view.vectors_of(key, wanted))
    by_seq = {item.seq: item for item in items}
    kept = tuple(by_seq[seq] for seq in seqs.tolist())
    mapped = mapper.embed_vectors(vectors) if kept else {}
    stored = set(seqs.tolist())
    without = [item for item in items if item.seq not in stored]
    if not without:
        found = {output: mapped[output] for output in outputs} if kept else {}
        return Reembedded(embedder.version, kept, found)
    try:
        rest = reembed_items(without, embedder, outputs, check_source=check_source)
    except NoModelError:
        failed = tuple((item.seq, NO_VECTOR) for item in without)
        rest = Reembedded(embedder.version, (), {}, failed)
    parts = [part for part in ((kept, mapped), (rest.items, rest.vectors)) if part[0]]
    return Reembedded(
        embedder.version,
        tuple(item for some, _ in parts for item in some),
        {o: np.concatenate([vectors[o] for _, vectors in parts]) for o in outputs if parts},
        rest.failed,
    )


def _check_same(content: bytes, sha256: str | None) -> None:
    if sha256 is not None and sha256_bytes(content) != sha256:
        raise ImageError("of an item", "the source image is not the one that was enrolled")


def embed_images(
    embedder: Embedder, images: Sequence[Images], outputs: Sequence[str]
) -> tuple[dict[str, Floats], Bools]:
    """Embed images: by output the unit vectors of those that worked, and which ones did.

    Raises:
        UsageError: the embedder lacks one of `outputs`.
    """
    missing = set(outputs) - set(embedder.outputs)
    if missing:
        raise UsageError(
            f"{embedder.version} has no output {', '.join(sorted(missing))}, which this gallery's "
            "edges need; give an embedder that has it"
        )
    if not images:
        empty = {o: np.empty((0, embedder.outputs[o]), dtype=np.float32) for o in outputs}
        return empty, np.empty(0, dtype=np.bool_)
    found, good = _embed_all(embedder, images, outputs)
    for output in outputs:
        array = found[output]
        if array.shape != (len(images), embedder.outputs[output]):
            raise VectorError(f"{embedder.version} gave {output} of shape {array.shape}")
        lengths = np.linalg.norm(array, axis=1)
        good &= np.isfinite(lengths) & (lengths > 0)
    vectors = {}
    for output in outputs:
        array = np.asarray(found[output][good], dtype=np.float32)
        vectors[output] = array / np.linalg.norm(array, axis=1, keepdims=True)
    return vectors, good


def _embed_all(
    embedder: Embedder, images: Sequence[Images], outputs: Sequence[str]
) -> tuple[dict[str, Floats], Bools]:
    """Embed images, one by one if the embedder refuses them together: one may be at fault.

    Returns:
        By output a row for every image, and which images were not refused.
    """
    good = np.ones(len(images), dtype=np.bool_)
    with suppress(VectorError):
        return dict(embedder.embed(np.stack(images))), good
    found = {o: np.full((len(images), embedder.outputs[o]), np.nan, np.float32) for o in outputs}
    for place, image in enumerate(images):
        try:
            alone = embedder.embed(image[None])
        except VectorError:
            good[place] = False
            continue
        for output in outputs:
            found[output][place] = alone[output][0]
    return found, good


def commit_batch(
    shelf: Shelf,
    batch: Reembedded,
    lease: Lease,
    also: Callable[[sa.Connection], None] | None,
    *,
    as_fresh: bool,
) -> int:
    """Commit a re-embedded batch; return how many items any row was written of.

    Items erased or replaced meanwhile are left out, and each output that an item has already: of
    an earlier batch that needed fewer, or written by another worker.

    Raises:
        LockedError: the lease is somebody else's now; nothing was changed.
    """
    codec = shelf.view().row.codec
    parts = rows_of(batch.items, seqs_of(batch.items), batch.version, batch.vectors, codec)

    def refused(connection: sa.Connection, view: View, part: Rows) -> Ints:
        gone = ~view.stored()[part.seqs] | view.mask(part.version, part.output)[part.seqs]
        dead = catalog.tombstoned(connection, shelf.name, part.seqs.tolist())
        return np.union1d(part.seqs[gone], dead)

    def finish(connection: sa.Connection, _: View) -> None:
        lease.check(connection)
        catalog.delete_touched(connection, shelf.name, [item.seq for item in batch.items])
        if also is not None:
            also(connection)

    return publish(shelf, parts, finish, as_fresh=as_fresh, refused=refused)
