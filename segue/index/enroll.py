"""Enrolling items: from images, or with vectors that somebody else made."""

from __future__ import annotations

from dataclasses import replace as changed
from typing import TYPE_CHECKING

import numpy as np

from segue.arrays import check_vectors
from segue.errors import DuplicateItemError, ImageError, UsageError, VectorError
from segue.files import sha256_bytes
from segue.images import decode
from segue.index import catalog
from segue.index.commit import enroll_rows, find_taken
from segue.index.items import Enrolment, ItemFailure, check_items
from segue.index.reembed import NOT_FINITE, embed_images, read_source, source_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from segue.index.items import NewItem
    from segue.index.shelf import Shelf
    from segue.types import Embedder, Floats, Images, Progress

    Vectors = dict[str, dict[str, list[Floats]]]


def enroll_given(
    shelf: Shelf,
    items: Iterable[NewItem],
    version: str,
    vectors: Mapping[str, Floats],
    *,
    replace: bool,
    fresh: bool | None,
) -> int:
    """Enrol items with given unit vectors by output; see `Gallery.enroll_vectors`."""
    listed = check_items(items)
    with shelf.database.read() as connection:
        row = catalog.read_gallery(connection, shelf.name)
        outputs = catalog.version_outputs(connection, version)
        needed = catalog.outputs_needed(connection, row, version)
    unknown, missing = set(vectors) - set(outputs), set(needed) - set(vectors)
    if unknown:
        raise VectorError(
            f"{version} has no output {', '.join(sorted(unknown))}; it has "
            f"{', '.join(sorted(outputs))}"
        )
    if missing:
        raise VectorError(
            f"give vectors of output {', '.join(sorted(missing))} of {version} too: without them "
            "probes of the gallery's other versions would not find these items"
        )
    checked = {
        output: check_vectors(array, dimension=outputs[output], name=f"vectors of {output}")
        for output, array in vectors.items()
    }
    for output, array in checked.items():
        if len(array) != len(listed):
            raise VectorError(f"{len(array)} vectors of {output} for {len(listed)} items")
    return enroll_rows(shelf, listed, {version: checked}, replace=replace, fresh=fresh)


def enroll_images(
    shelf: Shelf,
    items: Iterable[NewItem],
    embedders: Sequence[Embedder],
    *,
    replace: bool,
    batch: int,
    fresh: bool | None,
    progress: Progress,
) -> Enrolment:
    """Read, embed and enrol images as one commit; see `Gallery.enroll`."""
    listed = check_items(items)
    with shelf.database.read() as connection:
        view = shelf.view_in(connection)
        _check_embedders(embedders, (view.row.serving, *view.row.companions))
        needed = {
            e.version: catalog.outputs_needed(connection, view.row, e.version) for e in embedders
        }
        if not replace:
            taken = find_taken(connection, shelf, view, [item.item_id for item in listed])
            if taken:
                raise DuplicateItemError(next(iter(taken)), len(taken))
    done: list[NewItem] = []
    failed: list[ItemFailure] = []
    collected: Vectors = {v: {o: [] for o in outputs} for v, outputs in needed.items()}
    for start in range(0, len(listed), batch):
        good, bad = _embed(listed[start : start + batch], embedders, needed, collected)
        done += good
        failed += bad
        progress(min(start + batch, len(listed)), len(listed), "images embedded")
    vectors = {
        version: {output: np.concatenate(parts) for output, parts in outputs.items() if parts}
        for version, outputs in collected.items()
    }
    count = enroll_rows(shelf, done, vectors, replace=replace, fresh=fresh)
    return Enrolment(count, tuple(failed))


def _check_embedders(embedders: Sequence[Embedder], wanted: Sequence[str]) -> None:
    given = [embedder.version for embedder in embedders]
    if not given or given[0] != wanted[0] or set(wanted) - set(given):
        raise UsageError(
            f"new items of this gallery are embedded by {', '.join(wanted)} (the first serves); "
            f"the embedders given are {', '.join(given) or 'none'}"
        )


def _embed(
    items: Sequence[NewItem],
    embedders: Sequence[Embedder],
    needed: Mapping[str, Sequence[str]],
    collected: Vectors,
) -> tuple[list[NewItem], list[ItemFailure]]:
    """Embed one batch by every embedder; append the vectors of the items that all could embed."""
    sizes = {embedder.input_size for embedder in embedders}
    read: list[NewItem] = []
    failed: list[ItemFailure] = []
    images: dict[tuple[int, int], list[Images]] = {size: [] for size in sizes}
    for item in items:
        try:
            content = read_source(item.source)
            decoded = {size: decode(content, size) for size in sizes}
        except ImageError as error:
            failed.append(ItemFailure(item.item_id, error.reason))
            continue
        for size, image in decoded.items():
            images[size].append(image)
        sha256 = sha256_bytes(content)
        read.append(changed(item, source=_absolute(item.source), source_sha256=sha256))
    found = {e.version: embed_images(e, images[e.input_size], needed[e.version]) for e in embedders}
    good = np.ones(len(read), dtype=np.bool_)
    for _, fine in found.values():
        good &= fine
    for version, (vectors, fine) in found.items():
        for output, array in vectors.items():
            collected[version][output].append(array[good[fine]])
    failed += [
        ItemFailure(item.item_id, NOT_FINITE)
        for item, fine in zip(read, good.tolist(), strict=True)
        if not fine
    ]
    return [item for item, fine in zip(read, good.tolist(), strict=True) if fine], failed


def _absolute(source: str | None) -> str | None:
    """Return a path as an absolute one, so that a later process finds it; URIs as they are."""
    if source is None or "://" in source:
        return source
    path = source_path(source)
    return source if path is None else str(path.absolute())
