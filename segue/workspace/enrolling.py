"""Images into a gallery, and images as probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.errors import DataError, MissingPathError
from segue.images import decode, list_images
from segue.index import Answer, Enrolment, NewItem, PairResult, Probe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from segue.index import Threshold
    from segue.types import Progress
    from segue.workspace.core import Workspace


def enroll(
    workspace: Workspace,
    gallery: str,
    folder: Path,
    *,
    identity: str | None,
    replace: bool,
    progress: Progress,
) -> Enrolment:
    """Enrol every image below `folder`; the folder an image lies in is its identity.

    The item's id is the image's path below `folder`. Images that lie directly in `folder` have no
    identity, unless `identity` gives one to all. Images that cannot be decoded are reported, the
    others are enrolled.

    Raises:
        MissingPathError, DataError: no such folder, or no image in it.
    """
    opened = workspace.gallery(gallery)
    items = items_below(folder, identity)
    embedders = [
        workspace.registry.load(version) for version in (opened.serving, *opened.companions)
    ]
    return opened.enroll(items, embedders, replace=replace, progress=progress)


def items_below(folder: Path, identity: str | None = None) -> list[NewItem]:
    """Return one item for each image below a folder (or for the one image given).

    Images in folders are of the identity that their folder names; `identity` overrides it.

    Raises:
        MissingPathError, DataError: no such folder, or no image in it.
    """
    if folder.is_file():
        return [NewItem(folder.name, identity, str(folder.resolve()))]
    if not folder.is_dir():
        raise MissingPathError(folder, "folder of images")
    paths = list_images(folder)
    if not paths:
        raise DataError(
            f"{folder} holds no images; give a folder with one folder of images for each person"
        )
    items = []
    for path in paths:
        relative = path.relative_to(folder)
        named = relative.parent.as_posix() if len(relative.parts) > 1 else None
        items.append(NewItem(relative.as_posix(), identity or named, str(path.resolve())))
    return items


def probe(workspace: Workspace, gallery: str, images: Sequence[Path]) -> Probe:
    """Embed image files with the gallery's serving version.

    Raises:
        ImageError: one of them cannot be decoded.
    """
    embedder = workspace.registry.load(workspace.gallery(gallery).serving)
    decoded = np.stack([decode(path, embedder.input_size) for path in images])
    return Probe(embedder.version, embedder.embed(decoded))


def answer(
    workspace: Workspace,
    gallery: str,
    images: Sequence[Path],
    *,
    k: int,
    threshold: Threshold | None,
    inline_milliseconds: int,
) -> Answer:
    """Search by image files; see `Workspace.search`."""
    opened = workspace.gallery(gallery)
    opened.check_search(threshold)  # before a model is loaded
    found = opened.answer(probe(workspace, gallery, images), k=k, threshold=threshold)
    if inline_milliseconds > 0:
        from segue.migrations import open_migration, reembed_hits

        if open_migration(workspace.database, gallery) is not None:
            migration = workspace.migration(gallery)
            embedder = workspace.registry.load(migration.target)
            hits = [hit for each in found.hits for hit in each]
            reembed_hits(opened, hits, embedder, inline_milliseconds)
    return found


def verify_images(
    workspace: Workspace, gallery: str, first: Path, second: Path, threshold: Threshold
) -> PairResult:
    """Compare two images with the gallery's serving version."""
    both = probe(workspace, gallery, [first, second])
    one, other = (
        Probe(both.version, {output: rows[[row]] for output, rows in both.vectors.items()})
        for row in (0, 1)
    )
    return workspace.gallery(gallery).verify_pair(one, other, threshold)
