"""Which outputs of two versions are compared: those that were trained into one space.

A harmonic version's output `compatible` (or `embedding`, where it has one output) lies in the space
of the version that it was trained against, `details["old"]`. That another version's vectors have
the same dimension says nothing: in a chain v1, v2, v3, v3's `compatible` belongs to v2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.errors import EvaluationError, UnknownVersionError
from segue.types import BASE_OUTPUT, COMPATIBLE_OUTPUT, DEFAULT_OUTPUT

if TYPE_CHECKING:
    from segue.registry import Registry, Version

_VECTORS_ONLY = "vectors"


def edge_outputs(registry: Registry, probe: Version, stored: Version) -> tuple[str, str]:
    """Return the outputs in which probes of one version are compared with the other's vectors.

    Outputs that lie in one space by training come first. A retuned version is compared with the
    version that it retunes by its vector before the map. Versions without a common history are
    compared by their own outputs, where these have one dimension. A `compatible` that was trained
    for a third version takes no part, unless the other is a version of vectors only: these may be
    the third one's.

    Raises:
        EvaluationError: there are no such outputs.
    """
    from segue.evaluation.matrix import comparable_outputs

    if probe.version == stored.version:
        return DEFAULT_OUTPUT, DEFAULT_OUTPUT
    if probe.retuned_from == stored.version:
        return BASE_OUTPUT, DEFAULT_OUTPUT
    if stored.retuned_from == probe.version:
        raise EvaluationError(
            f"{probe.version} is compared with {stored.version} through the map that made it; "
            "their edge has it"
        )
    joined = _joined(registry, probe, stored)
    if joined is not None:
        return joined
    found = comparable_outputs(_free(probe, stored), _free(stored, probe))
    if found is not None:
        return found
    raise EvaluationError(
        f"{_told(probe)} and {_told(stored)} have no outputs that can be compared without a "
        "bridge: train a version with `segue train harmonic`, or fit a bridge with "
        "`segue train bridge`"
    )


def in_one_space(
    registry: Registry, probe: Version, stored: Version, outputs: tuple[str, str]
) -> bool:
    """Tell whether an output of each version lies in one space: by training, or as one model.

    Of others a distance can be measured, but it is noise, and a ranking by it too.
    """
    return _space(registry, probe, outputs[0]) == _space(registry, stored, outputs[1])


def may_share_space(
    registry: Registry, probe: Version, stored: Version, outputs: tuple[str, str]
) -> bool:
    """Tell whether outputs lie in one space, as far as anybody knows.

    Of vectors without a model nobody knows whose they are: they may be those that the other version
    was trained for.
    """
    kinds = probe.kind, stored.kind
    trained = any("old" in version.details for version in (probe, stored))
    return (_VECTORS_ONLY in kinds and trained) or in_one_space(registry, probe, stored, outputs)


def has_no_model(registry: Registry, version: Version) -> bool:
    """Tell whether a version is of vectors only, or maps vectors of one that is."""
    if version.retuned_from is not None:
        version = registry.resolve(version.retuned_from)
    return version.kind == _VECTORS_ONLY


def _joined(registry: Registry, probe: Version, stored: Version) -> tuple[str, str] | None:
    """Return the output that was trained for the other version, and the other's own output."""
    for first, second in ((_tied(probe), DEFAULT_OUTPUT), (DEFAULT_OUTPUT, _tied(stored))):
        same = probe.outputs[first] == stored.outputs[second]
        if same and _space(registry, probe, first) == _space(registry, stored, second):
            return first, second
    return None


def _tied(version: Version) -> str:
    """Return the output that a harmonic version is compared with its old version in."""
    return COMPATIBLE_OUTPUT if COMPATIBLE_OUTPUT in version.outputs else DEFAULT_OUTPUT


def _space(registry: Registry, version: Version, output: str) -> tuple[str, str]:
    """Return what names the space of an output: the fingerprint and output that began it."""
    if output == BASE_OUTPUT and version.retuned_from is not None:
        return _space(registry, registry.resolve(version.retuned_from), DEFAULT_OUTPUT)
    old = version.details.get("old")
    if old is None or output != _tied(version):
        return version.fingerprint, output
    try:
        return _space(registry, registry.resolve(str(old)), DEFAULT_OUTPUT)
    except UnknownVersionError:  # the lineage came from another workspace
        return str(old), DEFAULT_OUTPUT


def _free(version: Version, other: Version) -> dict[str, int]:
    """Return the outputs that were not trained for a third version."""
    known = "old" in version.details and other.kind != _VECTORS_ONLY
    return {
        output: dimension
        for output, dimension in version.outputs.items()
        if not (known and output == COMPATIBLE_OUTPUT)
    }


def _told(version: Version) -> str:
    outputs = ", ".join(f"{output} {size}" for output, size in version.outputs.items())
    old = version.details.get("old")
    return f"{version.version} ({outputs}{f'; trained for {old}' if old else ''})"
