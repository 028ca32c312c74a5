from __future__ import annotations

import io
import os
import struct
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segue.errors import DataError, ImageError, MissingPathError, PeopleError
from segue.images import decode, list_images, read_faces


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def face() -> bytes:
    return _png(np.random.default_rng(0).integers(0, 255, (20, 16, 3), dtype=np.uint8))


def test_an_image_is_decoded_in_the_size_asked_for(face):
    """Colour, grey and transparent images all become RGB of the size."""
    assert decode(face, (20, 16)).shape == (20, 16, 3)
    assert decode(face, (8, 8)).dtype == np.uint8
    grey = _png(np.full((4, 4), 7, np.uint8))
    assert decode(grey, (4, 4))[0, 0].tolist() == [7, 7, 7]


def test_undecodable_truncated_and_missing_images_raise_their_reason(face, tmp_path):
    """Each kind of broken image says what is wrong with it."""
    with pytest.raises(ImageError, match="no image of a kind read here"):
        decode(b"not an image", (8, 8))
    with pytest.raises(ImageError, match="truncated or damaged"):
        decode(face[: len(face) // 2], (8, 8))
    with pytest.raises(ImageError, match="missing"):
        decode(tmp_path / "gone.png", (8, 8))


def test_a_small_file_that_unpacks_to_gigabytes_is_refused():
    """Dimensions are checked before pixels are decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="pixels"):
        decode(bomb, (8, 8))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "EPS", "ICO"])
def test_only_plain_formats_are_decoded_whatever_the_name(kind, tmp_path):
    """Formats whose readers are rarely used, or start other programs, are refused unread."""
    path = tmp_path / "face.jpg"
    with path.open("wb") as file:
        Image.new("RGB", (16, 16)).save(file, kind)
    with pytest.raises(ImageError, match="no image of a kind read here"):
        decode(path, (8, 8))


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_image_never_raises_anything_else(face, seed):
    """Whatever bytes change, an image decodes or raises the one error."""
    generator = np.random.default_rng(seed)
    damaged = bytearray(face)
    for place in generator.integers(8, len(face), 6):
        damaged[place] = generator.integers(256)
    with suppress(ImageError):
        assert decode(bytes(damaged), (8, 8)).shape == (8, 8, 3)


def test_a_source_that_is_no_regular_file_is_refused_at_once(tmp_path):
    """A pipe, a device and a folder never hang a reader or fill the memory."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for path in (tmp_path / "pipe.jpg", tmp_path / "folder.jpg", Path("/dev/zero")):
        with pytest.raises(ImageError, match=r"no regular file|cannot be read"):
            decode(path, (8, 8))


def _folder(root, face, people=40):
    for index in range(people):
        for number in range(1 + index % 3):
            path = root / f"p{index:02d}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(face)
    return root


def test_a_folder_is_split_by_people_and_the_same_way_every_time(face, tmp_path):
    """No person is in two parts, and a second reading gives the same parts."""
    faces = read_faces(_folder(tmp_path, face))
    assert faces == read_faces(tmp_path)
    parts = {}
    for one in faces.faces:
        assert parts.setdefault(one.person, one.part) == one.part
    assert set(parts.values()) == {"train", "validation", "calibration", "test"}
    assert faces.labels.tolist() == [int(one.person[1:]) for one in faces.faces]


def test_images_that_no_memory_holds_are_refused(face, tmp_path):
    """How much it would be is said, and what to do."""
    faces = read_faces(_folder(tmp_path, face, 2))
    with pytest.raises(DataError, match=r"3 images of 10000000 x 10000000 .* 900,000.0 GB"):
        faces.load((10**7, 10**7))


def test_a_list_gives_the_parts_and_the_half_of_v1(face, tmp_path):
    """people.csv decides part and v1; its people are found under images/."""
    _folder(tmp_path / "images", face, 4)
    (tmp_path / "people.csv").write_text(
        "person,images,part,v1\np00,1,train,1\np01,2,train,0\np02,3,test,0\n"
    )
    faces = read_faces(tmp_path)
    assert faces.people == ("p00", "p01", "p02")
    assert faces.part("train").people == ("p00", "p01")
    assert faces.part("train", old_only=True).people == ("p00",)
    with pytest.raises(PeopleError, match="nobody in part validation"):
        faces.part("validation")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("person\np00\n", PeopleError, "no column part"),
        ("person,part\np00,training\n", PeopleError, "part 'training'"),
        ("person,part\np00,train\np00,test\n", PeopleError, "listed twice"),
        ("person,part\nnobody,train\n", MissingPathError, "folder of a person"),
        ("person,part\n../images,train\n", MissingPathError, "folder of a person"),
        ("person,part\np00\n", PeopleError, "too few columns"),
        (b"\xff\xfe\x00", DataError, "no CSV file in UTF-8"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(face, tmp_path, text, error, message):
    """Every mistake in people.csv is named with its line."""
    _folder(tmp_path / "images", face, 1)
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "people.csv").write_bytes(content)
    with pytest.raises(error, match=message):
        read_faces(tmp_path)


def test_missing_and_empty_folders_say_so(tmp_path):
    """A folder that is not there, and one without faces, each have their sentence."""
    with pytest.raises(MissingPathError, match="no folder of faces"):
        read_faces(tmp_path / "gone")
    with pytest.raises(PeopleError, match="holds no faces"):
        read_faces(tmp_path)
    assert list_images(tmp_path) == []


def test_at_most_draws_the_same_images_whoever_else_is_there(face, tmp_path):
    """The images drawn of a person depend on the seed and the person alone."""
    faces = read_faces(_folder(tmp_path, face))
    drawn = faces.at_most(2, seed=3)
    assert max(np.bincount(drawn.labels)) == 2
    some = {one.path for one in faces.part("train").at_most(2, seed=3).faces}
    assert some == {one.path for one in drawn.faces if one.part == "train"}


def test_a_sample_is_of_whole_people(face, tmp_path):
    """People are kept with all their images, in the old order, as many as there is room for."""
    faces = read_faces(_folder(tmp_path, face))
    assert faces.sample(len(faces), seed=0) is faces
    room = len(faces) // 2
    sizes = Counter(one.person for one in faces.faces)
    seen = set()
    for seed in range(8):
        some = faces.sample(room, seed)
        left_out = [sizes[person] for person in set(faces.people) - set(some.people)]
        assert 0 < len(some) <= room < len(some) + min(left_out)
        assert all(
            sizes[person] == n for person, n in Counter(f.person for f in some.faces).items()
        )
        assert [one for one in faces.faces if one in set(some.faces)] == list(some.faces)
        assert some == faces.sample(room, seed)
        seen.add(some.people)
    assert len(seen) > 1


def test_the_fingerprint_changes_with_the_data(face, tmp_path):
    """One more image, or another content of the same size, is another fingerprint."""
    faces = read_faces(_folder(tmp_path, face))
    before = faces.fingerprint
    assert before == read_faces(tmp_path).fingerprint
    (tmp_path / "p00" / "more.png").write_bytes(face)
    assert read_faces(tmp_path).fingerprint != before
    (tmp_path / "p00" / "more.png").unlink()
    (tmp_path / "p00" / "0.png").write_bytes(face[:-1] + b"x")
    assert read_faces(tmp_path).fingerprint != before
