"""Online mining of semi-hard triplets (FaceNet, section 3.2), without loops over pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segue.errors import UsageError, VectorError


class Triplets(NamedTuple):
    """Mined triplets as indices, int64 [T] each, ordered by anchor, then by positive.

    `anchor` counts rows of the anchors, `positive` and `negative` rows of the references.
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor


def pairwise_squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared L2 distance of every row of `a` to every row of `b`, with gradient.

    By ‖a‖² + ‖b‖² - 2 a·b in the inputs' precision, at least float32, also under autocast. Rounding
    may leave values slightly below 0.

    Args:
        a: float [N, d].
        b: float [M, d].

    Returns:
        float [N, M].
    """
    with torch.autocast(a.device.type, enabled=False):
        if a.dtype in (torch.float16, torch.bfloat16):
            a, b = a.float(), b.float()
        lengths = a.square().sum(1, keepdim=True) + b.square().sum(1)
        return torch.addmm(lengths, a, b.T, alpha=-2)


def check_unit(vectors: Tensor, name: str) -> None:
    """Refuse a tensor that is not [N, d] with rows of length 1.

    Raises:
        VectorError: another shape, NaN, or other lengths (off by more than 1e-3; 2e-2 for 16 bit).
    """
    if vectors.ndim != 2 or not vectors.is_floating_point():
        raise VectorError(f"{name} are {vectors.dtype} {tuple(vectors.shape)}; give floats [N, d]")
    half = vectors.dtype in (torch.float16, torch.bfloat16)
    wide = vectors.detach().float() if half else vectors.detach()
    off = (torch.linalg.vector_norm(wide, dim=1) - 1).abs()
    if not bool((off <= (2e-2 if half else 1e-3)).all()):  # NaN is not <= either
        raise VectorError(
            f"{name} are not finite vectors of unit length; divide each by its length "
            "(torch.nn.functional.normalize), and lower the learning rate if they became NaN"
        )


def check_tensor_labels(labels: Tensor, vectors: Tensor, name: str = "labels") -> None:
    """Refuse labels that are not one number for each row.

    Raises:
        VectorError: another shape.
    """
    if labels.shape != vectors.shape[:1]:
        raise VectorError(
            f"{name} have shape {tuple(labels.shape)}; give one for each of {len(vectors)} rows"
        )


def nearest_semi_hard(
    distances: Tensor, positive: Tensor, negative: Tensor, margin: float
) -> Triplets:
    """Return for each anchor-positive pair the nearest semi-hard negative of its row.

    For the pair (a, p) that is the n with the smallest distance among
    d(a, p) < d(a, n) < d(a, p) + margin; of equally near ones the first. A pair without one gives
    no triplet. Rows are sorted once and searched for all pairs together: memory O(N·M), time
    O(N·M·log M).

    Args:
        distances: squared distances, float [N, M].
        positive: which pairs are anchor and positive, bool [N, M].
        negative: which pairs are anchor and possible negative, bool [N, M].
        margin: alpha of the triplet loss, in squared distance.
    """
    distances = distances.detach()
    ordered, order = torch.sort(distances.masked_fill(~negative, torch.inf), dim=1, stable=True)
    anchor, reference = positive.nonzero(as_tuple=True)
    if len(anchor) == 0:
        return Triplets(anchor, reference, reference)
    to_positive = distances[anchor, reference]
    counts = positive.sum(1)
    slot = torch.arange(len(anchor), device=anchor.device) - (counts.cumsum(0) - counts)[anchor]
    wanted = distances.new_full((len(distances), int(counts.max())), torch.inf)
    wanted[anchor, slot] = to_positive
    place = torch.searchsorted(ordered, wanted, right=True)[anchor, slot]
    place = place.clamp(max=distances.shape[1] - 1)
    to_negative = ordered[anchor, place]
    found = (to_negative > to_positive) & (to_negative < to_positive + margin)
    return Triplets(anchor[found], reference[found], order[anchor, place][found])


def semi_hard_triplets(
    anchors: Tensor,
    anchor_labels: Tensor,
    references: Tensor,
    reference_labels: Tensor,
    *,
    anchor_ids: Tensor | None = None,
    reference_ids: Tensor | None = None,
    margin: float = 0.2,
) -> Triplets:
    """Return the nearest semi-hard negative of every anchor-positive pair.

    All pairs of an anchor and a reference of the same person are mined (`nearest_semi_hard`),
    except a vector paired with itself: rows of the same id. Without ids a row is paired with itself
    only when `anchors` and `references` are one tensor; when the references merely contain the
    anchors, give ids.

    Args:
        anchors: unit vectors, float [N, d].
        anchor_labels: who each anchor shows, int64 [N].
        references: unit vectors that positives and negatives are taken from, float [M, d].
        reference_labels: who each reference shows, int64 [M].
        anchor_ids: which vector each anchor is, int64 [N].
        reference_ids: which vector each reference is, int64 [M].
        margin: alpha of the triplet loss, in squared distance; FaceNet's is 0.2.

    Raises:
        VectorError: no unit vectors, two dimensions, or not one label or id per row.
        UsageError: ids for one side only, or a margin that is not above 0.

    >>> vectors = torch.nn.functional.normalize(torch.tensor([[4.0, 1], [4, 0], [4, -2]]), dim=1)
    >>> labels = torch.tensor([0, 0, 1])
    >>> mined = semi_hard_triplets(vectors, labels, vectors, labels, margin=0.5)
    >>> [indices.tolist() for indices in mined]
    [[0, 1], [1, 0], [2, 2]]
    """
    check_unit(anchors, "anchors")
    check_unit(references, "references")
    if anchors.shape[1] != references.shape[1]:
        raise VectorError(
            f"anchors have dimension {anchors.shape[1]}, references {references.shape[1]}"
        )
    check_tensor_labels(anchor_labels, anchors, "anchor labels")
    check_tensor_labels(reference_labels, references, "reference labels")
    if (anchor_ids is None) != (reference_ids is None):
        raise UsageError("ids say which rows are the same vector; give them for both sides")
    check_margin(margin)
    same = anchor_labels[:, None] == reference_labels
    positive = same
    if anchor_ids is not None and reference_ids is not None:
        check_tensor_labels(anchor_ids, anchors, "anchor ids")
        check_tensor_labels(reference_ids, references, "reference ids")
        positive = same & (anchor_ids[:, None] != reference_ids)
    elif anchors is references:
        positive = same & ~torch.eye(len(anchors), dtype=torch.bool, device=anchors.device)
    distances = pairwise_squared_distances(anchors.detach(), references.detach())
    return nearest_semi_hard(distances, positive, ~same, margin)


def check_margin(margin: float) -> None:
    """Refuse a margin that selects nothing.

    Raises:
        UsageError: it is not above 0 and at most 4.
    """
    if not 0 < margin <= 4:
        raise UsageError(f"margin {margin!r} is not above 0 and at most 4; FaceNet's is 0.2")
