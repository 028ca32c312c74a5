"""Faces on disk: bounded decoding, and lists of people with the part that each belongs to.

Two layouts are read. A folder with `people.csv` (columns `person`, `part`, optionally `v1`) and
`images/PERSON/IMAGE`; or a plain folder `PERSON/IMAGE`, whose people are split by a salted hash of
their name. People are split, never images.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import stat
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segue.errors import DataError, ImageError, MissingPathError, PeopleError, UnknownNameError
from segue.files import sha256_bytes
from segue.types import PARTS, Progress, no_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.types import Images, Ints

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
"""The file names that are taken for images."""

MAX_BYTES = 32 * 2**20
"""The largest image file that is read, in bytes."""

MAX_PIXELS = 50_000_000
"""The largest image that is decoded, in pixels: a small file can unpack to gigabytes."""

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""What is decoded, whatever a file is called: Pillow's reader of EPS starts another program."""

_SHARES = (("train", 0.55), ("validation", 0.1), ("calibration", 0.1), ("test", 0.25))
_SALT = "segue-parts-1:"


def decode(source: Path | bytes, size: tuple[int, int]) -> Images:
    """Decode one image as RGB, resized to `size` = (height, width): uint8 [height, width, 3].

    Raises:
        ImageError: missing, too large, truncated or no image at all.
    """
    from PIL import Image, UnidentifiedImageError

    name = source.name if isinstance(source, Path) else "given as bytes"
    content = source if isinstance(source, bytes) else read_bounded(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(content, size, name)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(name, f"it is no image of a kind read here ({_known()})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(name, f"more pixels than the limit of {MAX_PIXELS:,}") from error
    except Exception as error:  # decoders raise whatever a damaged file drives them to
        raise ImageError(name, "it is truncated or damaged") from error


def _decode(content: bytes, size: tuple[int, int], name: str) -> Images:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(
                name, f"{image.width} x {image.height} pixels, the limit is {MAX_PIXELS:,}"
            )
        upright = ImageOps.exif_transpose(image).convert("RGB")
        height, width = size
        if upright.size != (width, height):
            upright = upright.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(upright, dtype=np.uint8)


def _known() -> str:
    return ", ".join(_FORMATS)


def read_bounded(path: Path) -> bytes:
    """Read a regular file of at most `MAX_BYTES`.

    Raises:
        ImageError: it is missing, no regular file (a device or pipe never ends), too large, or
            cannot be read.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ImageError(path.name, "the file is missing") from error
    except OSError as error:
        raise ImageError(path.name, f"it cannot be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise ImageError(path.name, f"larger than {MAX_BYTES // 2**20} MiB")
    return content


def _without_waiting(path: str, flags: int) -> int:
    """Open a regular file; a pipe would wait for a writer, a device would never end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageError(Path(path).name, "it is no regular file")
    return descriptor


@dataclass(frozen=True)
class Face:
    """One stored face image.

    Attributes:
        person: the folder's or list's name of the person.
        path: the image file.
        part: `train`, `validation`, `calibration` or `test`.
        old: whether the person is of the half that a v1 is trained on.
    """

    person: str
    path: Path
    part: str
    old: bool = True


@dataclass(frozen=True)
class FaceList:
    """Faces in a fixed order (person, then file name), below one `root`."""

    faces: tuple[Face, ...]
    root: Path

    def __len__(self) -> int:
        return len(self.faces)

    @property
    def people(self) -> tuple[str, ...]:
        """The names of the people, sorted."""
        return tuple(sorted({face.person for face in self.faces}))

    @property
    def labels(self) -> Ints:
        """The person of each face as its place in `people`: int64 [N]."""
        number = {person: index for index, person in enumerate(self.people)}
        return np.array([number[face.person] for face in self.faces], dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 over paths, contents, people and parts, read once; it holds no image."""
        digest = hashlib.sha256()
        for face in self.faces:
            relative = face.path.relative_to(self.root).as_posix()
            content = sha256_bytes(read_bounded(face.path))
            line = (relative, content, face.person, face.part, str(face.old))
            digest.update("\0".join(line).encode() + b"\n")
        return digest.hexdigest()

    def part(self, *parts: str, old_only: bool = False) -> FaceList:
        """Return the faces of some parts; with `old_only`, of the half a v1 is trained on.

        Raises:
            UnknownNameError: there is no part of that name.
            PeopleError: nobody is left.
        """
        for name in parts:
            if name not in PARTS:
                raise UnknownNameError("part", name, PARTS)
        kept = tuple(
            face for face in self.faces if face.part in parts and (face.old or not old_only)
        )
        if not kept:
            raise PeopleError(
                f"{self.root} holds nobody in part {' or '.join(parts)}; "
                "add people, or name parts in people.csv"
            )
        return replace(self, faces=kept)

    def at_most(self, images_per_person: int, seed: int) -> FaceList:
        """Return at most so many images of each person, drawn with `seed` by person's name."""
        kept: list[Face] = []
        by_person: dict[str, list[Face]] = {}
        for face in self.faces:
            by_person.setdefault(face.person, []).append(face)
        for person, faces in by_person.items():
            if len(faces) > images_per_person:
                entropy = hashlib.sha256(f"{seed}:{person}".encode()).digest()
                generator = np.random.default_rng(list(entropy))
                chosen = generator.choice(len(faces), images_per_person, replace=False)
                kept.extend(faces[index] for index in sorted(chosen))
            else:
                kept.extend(faces)
        return replace(self, faces=tuple(kept))

    def sample(self, images: int, seed: int) -> FaceList:
        """Return all images of some people, at most so many; everybody where they fit.

        People are taken in an order drawn with `seed` by name, each while there is room.
        """
        if len(self) <= images:
            return self
        counts = Counter(face.person for face in self.faces)
        drawn = {x: hashlib.sha256(f"{seed}:people:{x}".encode()).digest() for x in counts}
        kept: set[str] = set()
        room = images
        for person in sorted(counts, key=drawn.__getitem__):
            if counts[person] <= room:
                kept.add(person)
                room -= counts[person]
        return replace(self, faces=tuple(face for face in self.faces if face.person in kept))

    def load(self, size: tuple[int, int], progress: Progress = no_progress) -> Images:
        """Decode every face: uint8 [N, height, width, 3].

        Raises:
            ImageError: one of them cannot be decoded.
            DataError: the memory does not hold them all.
        """
        try:
            images = np.empty((len(self), *size, 3), dtype=np.uint8)
        except MemoryError as error:
            raise DataError(
                f"{len(self):,} images of {size[0]} x {size[1]} pixels need "
                f"{len(self) * size[0] * size[1] * 3 / 1e9:,.1f} GB of memory; "
                "use smaller images, or fewer"
            ) from error
        for index, face in enumerate(self.faces):
            images[index] = decode(face.path, size)
            if index % 100 == 99 or index + 1 == len(self):
                progress(index + 1, len(self), "images decoded")
        return images


def read_faces(data: Path) -> FaceList:
    """Read `DATA/people.csv` with `DATA/images`, or a folder `DATA/PERSON/IMAGE`.

    Raises:
        MissingPathError: no such folder, or a person of the list has none.
        PeopleError: nobody in it, or a list that contradicts itself.
    """
    if not data.is_dir():
        raise MissingPathError(data, "folder of faces")
    listed = data / "people.csv"
    faces = _from_list(listed, data / "images") if listed.is_file() else _from_folder(data)
    if not faces:
        raise PeopleError(
            f"{data} holds no faces; give a folder with one folder of images for each person"
        )
    return FaceList(tuple(faces), data)


def list_images(folder: Path) -> list[Path]:
    """Return every image file below a folder, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _from_folder(root: Path) -> list[Face]:
    return [
        Face(folder.name, path, _part_of(folder.name), old=_is_old(folder.name))
        for folder in sorted(path for path in root.iterdir() if path.is_dir())
        for path in list_images(folder)
    ]


def _share_of(person: str, salt: str) -> float:
    digest = hashlib.sha256((salt + person).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _part_of(person: str) -> str:
    share, upper = _share_of(person, _SALT), 0.0
    for part, size in _SHARES:
        upper += size
        if share < upper:
            return part
    return _SHARES[-1][0]


def _is_old(person: str) -> bool:
    return _share_of(person, _SALT + "v1:") < 0.5  # half of the people


def _from_list(listed: Path, root: Path) -> list[Face]:
    rows = _read_rows(listed)
    faces: list[Face] = []
    seen: set[str] = set()
    for line, row in enumerate(rows, start=2):
        person, part = row["person"], row["part"]
        if part not in PARTS:
            raise PeopleError(f"{listed}:{line}: part {part!r}; use one of {', '.join(PARTS)}")
        if person in seen:
            raise PeopleError(f"{listed}:{line}: a person is listed twice; list each once")
        seen.add(person)
        folder = root / person
        if folder.parent != root or not folder.is_dir():
            raise MissingPathError(folder, f"folder of a person (line {line} of {listed.name})")
        old = row.get("v1", "1") == "1"
        faces += [Face(person, path, part, old=old) for path in list_images(folder)]
    return sorted(faces, key=lambda face: (face.person, face.path.name))


def _read_rows(listed: Path) -> Sequence[dict[str, str]]:
    try:
        with listed.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = {"person", "part"} - set(reader.fieldnames or ())
            if missing:
                raise PeopleError(
                    f"{listed} has no column {', '.join(sorted(missing))}; "
                    "its header is person,part and optionally v1"
                )
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{listed} is no CSV file in UTF-8: {error}") from error
    for line, row in enumerate(rows, start=2):
        if any(row[column] is None for column in ("person", "part")):
            raise PeopleError(f"{listed}:{line}: too few columns")
    return rows
