"""Vectors of images that another model made, read from a file.

An image file's path often names the person; errors tell rows and places instead.
"""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.arrays import check_vectors
from segue.errors import MissingPathError, UnsafeModelError, VectorError

if TYPE_CHECKING:
    from pathlib import Path

    from segue.images import FaceList
    from segue.types import Floats

_SHOWN = 3


def old_vectors_from_file(path: Path, faces: FaceList) -> Floats:
    """Read v1's vectors of `faces`: unit float32 [N, d], row i for face i.

    The file is `.npz` with `paths`, the image files relative to `faces.root` with `/` between
    folders, and `vectors`, one unit vector for each. Rows of other images are ignored.

    Raises:
        MissingPathError: no such file.
        UnsafeModelError: no `.npz` file, or one with pickled objects.
        VectorError: an array is missing or of the wrong shape, a face has no vector or two, or
            vectors with NaN or not of unit length.
    """
    paths, vectors = _read(path)
    if paths.ndim != 1 or paths.dtype.kind not in "US":
        raise VectorError(f"'paths' of {path} are {paths.dtype} {paths.shape}; give text [N]")
    if len(paths) != len(vectors):
        raise VectorError(
            f"{path} holds {len(paths)} paths and {len(vectors)} vectors; give one for each"
        )
    names = [name.decode() if isinstance(name, bytes) else name for name in paths.tolist()]
    rows = {name: row for row, name in enumerate(names)}
    wanted = [face.path.relative_to(faces.root).as_posix() for face in faces.faces]
    missing = [place for place, name in enumerate(wanted, start=1) if name not in rows]
    if missing:
        raise VectorError(
            f"{path} has no vector for {len(missing):,} of {len(wanted):,} images (by person and "
            f"file name, number {_some(missing)} of them); paths are relative to {faces.root}"
        )
    if len(rows) < len(names):
        row, twice = next((row, name) for row, name in enumerate(names) if rows[name] != row)
        raise VectorError(
            f"rows {row} and {rows[twice]} of {path} are vectors of one image (counted from 0); "
            "give one for each image"
        )
    return check_vectors(vectors[[rows[name] for name in wanted]], name=f"vectors of {path.name}")


def _some(places: list[int]) -> str:
    """Write down the first places.

    >>> _some([2, 3]), _some([1, 4, 5, 9])
    ('2, 3', '1, 4, 5 …')
    """
    shown = ", ".join(map(str, places[:_SHOWN]))
    return f"{shown} …" if len(places) > _SHOWN else shown


def _read(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    if not path.is_file():
        raise MissingPathError(path, "file of old vectors")
    if not zipfile.is_zipfile(path):
        raise UnsafeModelError(path, "it is no .npz file (write it with numpy.savez)")
    try:
        with np.load(path, allow_pickle=False) as content:
            missing = {"paths", "vectors"} - set(content.files)
            if missing:
                raise VectorError(
                    f"{path} holds no array {' and no '.join(sorted(missing))}; "
                    "write it with numpy.savez(file, paths=…, vectors=…)"
                )
            paths, vectors = content["paths"], content["vectors"]
    except (ValueError, zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise UnsafeModelError(path, f"it is damaged or holds pickled objects ({error})") from error
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise VectorError(
            f"'vectors' of {path} are {vectors.dtype} {vectors.shape}; give numbers [N, d]"
        )
    return paths, vectors
