"""A model folder: `manifest.json`, the weights or ONNX file, and the witnesses.

The folder in the workspace's `models/<slug>/` is what `load` reads, each file against the sha256 in
the version's row. MLflow's copy is the same folder, and its manifest holds the hashes of the rest.
`people.json` lies beside a network that was trained here; the manifest does not know it, and MLflow
never gets it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from segue.errors import FormatError, RegistryError, UsageError
from segue.files import sha256_bytes
from segue.types import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
"""The manifest's format version."""

MANIFEST = "manifest.json"
WITNESS = "witness.safetensors"
PEOPLE = "people.json"
"""Marks of the people that a network was trained on; the workspace's alone, not MLflow's."""

MODEL_FILES = {"network": "weights.safetensors", "onnx": "model.onnx"}
"""Kind -> the file that holds the model; other kinds have none."""


@dataclass(frozen=True)
class Manifest:
    """What a model folder says about itself.

    `files` are the sha256 of the other files of the folder; `architecture` and `settings` are empty
    for what is no network of ours.
    """

    kind: str
    name: str
    outputs: dict[str, int]
    preprocessing: Preprocessing | None
    architecture: str
    settings: dict[str, Any]
    fingerprint: str
    files: dict[str, str]

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON text."""
        value = asdict(self)
        value["preprocessing"] = self.preprocessing.to_json() if self.preprocessing else None
        text = json.dumps({"format": FORMAT, **value}, sort_keys=True, indent=2, allow_nan=False)
        return (text + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: str = MANIFEST) -> Manifest:
        """Read what `to_bytes` wrote.

        Raises:
            FormatError: a newer Segue wrote it.
            RegistryError: it is no manifest.
        """
        try:
            value = json.loads(content)
            found = value.pop("format")
            if found != FORMAT:
                raise FormatError(where, found, FORMAT)
            preprocessing = value.pop("preprocessing")
            return cls(
                preprocessing=Preprocessing.from_json(preprocessing) if preprocessing else None,
                **value,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(
                f"{where} is no manifest of Segue; register the model anew"
            ) from error


def fingerprint(
    content: bytes, architecture: str, settings: Mapping[str, Any], preprocessing: Preprocessing
) -> str:
    """Return the sha256 over the weights and the canonical JSON of what turns them into vectors.

    Two versions of one fingerprint embed alike, whatever their names.
    """
    described = {
        "architecture": architecture,
        "settings": dict(settings),
        "preprocessing": preprocessing.to_json(),
    }
    digest = hashlib.sha256(content)
    digest.update(canonical_json(described))
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys and no spaces: the same bytes for the same value.

    Raises:
        UsageError: the value holds something that is no JSON (NaN included).

    >>> canonical_json({"b": 1, "a": [2.5, None]})
    b'{"a":[2.5,null],"b":1}'
    """
    try:
        text = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"settings and details must be plain JSON values: {error}; "
            "give numbers, text, lists and dictionaries"
        ) from error
    return text.encode()


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return file name -> sha256."""
    return {name: sha256_bytes(content) for name, content in files.items()}
