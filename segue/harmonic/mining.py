"""Mining of triplets (FaceNet, section 3.2) in a batch, without loops over pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from segue.errors import UnknownNameError, UsageError, VectorError

if TYPE_CHECKING:
    from collections.abc import Iterable

STRATEGIES = ("semi-hard", "hardest", "random")
"""How a negative is chosen for an anchor and a positive; see `select_triplets`."""


class Triplets(NamedTuple):
    """Mined triplets as indices, int64 [T] each, ordered by anchor, then by positive.

    `anchor` counts rows of the anchors, `positive` and `negative` rows of the references.
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor


def wide(vectors: Tensor) -> Tensor:
    """Return 16-bit floats as float32, anything else as it is."""
    return vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors


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
        a, b = wide(a), wide(b)
        lengths = a.square().sum(1, keepdim=True) + b.square().sum(1)
        return torch.addmm(lengths, a, b.T, alpha=-2)


def check_tensor(value: object, name: str, wanted: str) -> None:
    """Refuse what is no torch tensor.

    Raises:
        VectorError: a list, a numpy array or something else; `wanted` says what to give.
    """
    if not isinstance(value, Tensor):
        raise VectorError(
            f"{name} are of type {type(value).__name__}; give a torch tensor, {wanted} "
            "(torch.as_tensor makes one)"
        )


def check_unit(vectors: Tensor, name: str) -> None:
    """Refuse a tensor that is not [N, d] with rows of length 1.

    Raises:
        VectorError: no tensor, another shape, NaN, or other lengths (off by more than 1e-3; 2e-2
            for 16 bit).
    """
    check_tensor(vectors, name, "float [N, d]")
    if vectors.ndim != 2 or not vectors.is_floating_point():
        raise VectorError(f"{name} are {vectors.dtype} {tuple(vectors.shape)}; give floats [N, d]")
    half = vectors.dtype in (torch.float16, torch.bfloat16)
    off = (torch.linalg.vector_norm(wide(vectors.detach()), dim=1) - 1).abs()
    if not bool((off <= (2e-2 if half else 1e-3)).all()):  # NaN is not <= either
        raise VectorError(
            f"{name} are not finite vectors of unit length; divide each by its length "
            "(torch.nn.functional.normalize), and lower the learning rate if they became NaN"
        )


def check_tensor_labels(labels: Tensor, vectors: Tensor, name: str = "labels") -> None:
    """Refuse labels that are not one number for each row.

    Raises:
        VectorError: no tensor, or another shape.
    """
    check_tensor(labels, name, "int64 [N]")
    if labels.shape != vectors.shape[:1]:
        raise VectorError(
            f"{name} have shape {tuple(labels.shape)}; give one for each of {len(vectors)} rows"
        )


def select_triplets(
    distances: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float,
    *,
    strategy: str = "semi-hard",
    generator: torch.Generator | None = None,
) -> Triplets:
    """Return for each anchor-positive pair one negative of its row, as the strategy chooses it.

    Every triplet that is returned has a loss: d(a, n) < d(a, p) + margin. For the pair (a, p):

    - `semi-hard`: the nearest n that is farther than the positive, d(a, p) < d(a, n);
    - `hardest`: the nearest n of the row. FaceNet finds that a training from nothing collapses;
    - `random`: any n inside the margin, each equally likely, nearer than the positive or not.

    Of equally near negatives the first is taken. A pair without such a negative gives no triplet.
    Rows are sorted once and searched for all pairs together: memory O(N·M), time O(N·M·log M).

    Args:
        distances: squared distances, float [N, M].
        positive: which pairs are anchor and positive, bool [N, M].
        negative: which pairs are anchor and possible negative, bool [N, M].
        margin: alpha of the triplet loss, in squared distance.
        strategy: one of STRATEGIES.
        generator: what `random` draws from; the global one if None.

    Raises:
        UnknownNameError: no such strategy.
    """
    check_strategy(strategy)
    distances = wide(distances.detach())
    anchor, reference = positive.nonzero(as_tuple=True)
    if len(anchor) == 0:
        return Triplets(anchor, reference, reference)
    to_positive = distances[anchor, reference]
    rows = _OrderedRows(distances, negative)
    if strategy == "semi-hard":
        place = rows.count(anchor, to_positive, inclusive=True)
    elif strategy == "hardest":
        place = torch.zeros_like(anchor)
    else:
        inside = rows.count(anchor, to_positive + margin, inclusive=False)
        device = "cpu" if generator is None else generator.device
        drawn = torch.rand(len(anchor), generator=generator, dtype=torch.float64, device=device)
        place = (drawn.to(anchor.device) * inside).long()
    nearest = rows.column(anchor, place.clamp_(max=distances.shape[1] - 1))
    to_negative = distances[anchor, nearest]
    found = negative[anchor, nearest] & (to_negative < to_positive + margin)
    if strategy == "semi-hard":
        found &= to_negative > to_positive
    (kept,) = found.nonzero(as_tuple=True)
    return Triplets(anchor[kept], reference[kept], nearest[kept])


def nearest_semi_hard(
    distances: Tensor, positive: Tensor, negative: Tensor, margin: float
) -> Triplets:
    """Return for each anchor-positive pair the nearest semi-hard negative of its row.

    For the pair (a, p) that is the n with the smallest distance among
    d(a, p) < d(a, n) < d(a, p) + margin; `select_triplets` with its default strategy.
    """
    return select_triplets(distances, positive, negative, margin)


class _OrderedRows:
    """Each row's negatives in ascending order of distance, of equal ones the first column first.

    On a CPU, float32 distances are sorted as whole numbers that hold distance and column, by numpy:
    its vectorised sort of one array is some ten times faster than torch's of values with indices.
    """

    def __init__(self, distances: Tensor, negative: Tensor) -> None:
        kept = distances.masked_fill(~negative, torch.inf)
        self._packed = kept.dtype == torch.float32 and kept.device.type == "cpu"
        if self._packed:
            self._ordered = _pack(kept, torch.arange(kept.shape[1]))
            self._ordered.numpy().sort(axis=1)
        else:
            self._ordered, self._columns = torch.sort(kept, dim=1, stable=True)

    def count(self, row: Tensor, bound: Tensor, *, inclusive: bool) -> Tensor:
        """Return how many negatives of `row` are nearer than `bound`, or as near if `inclusive`.

        Args:
            row: int64 [T], ascending.
            bound: float [T].
            inclusive: whether a distance equal to the bound counts.

        Returns:
            int64 [T].
        """
        counts = torch.bincount(row, minlength=len(self._ordered))
        slot = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        wanted = bound.new_full((len(counts), int(counts.max())), torch.inf)
        wanted[row, slot] = bound
        if self._packed:
            wanted = _pack(wanted, torch.tensor(_LAST_COLUMN if inclusive else 0))
        return torch.searchsorted(self._ordered, wanted, right=inclusive)[row, slot]

    def column(self, row: Tensor, place: Tensor) -> Tensor:
        """Return the columns at these places of the order, int64 [T]."""
        if self._packed:
            return self._ordered[row, place] & _LAST_COLUMN
        return self._columns[row, place]


_LAST_COLUMN = 2**32 - 1


def _pack(distances: Tensor, columns: Tensor) -> Tensor:
    """Return int64 numbers ordered by distance (float32, overwritten), then by column."""
    bits = distances.add_(0.0).view(torch.int32)  # -0 becomes 0, which it equals
    below = bits.bitwise_right_shift(31).bitwise_and_(0x7FFFFFFF)
    bits.bitwise_xor_(below)  # below 0 the patterns count downwards
    return bits.to(torch.int64).bitwise_left_shift_(32).bitwise_or_(columns)


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
    anchors, give ids. Rows are mined in blocks, so that the memory beside the inputs and the
    triplets is bounded.

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
    if anchor_ids is not None and reference_ids is not None:
        check_tensor_labels(anchor_ids, anchors, "anchor ids")
        check_tensor_labels(reference_ids, references, "reference ids")
    found = []
    for start, stop in row_blocks(0, len(anchors), references):
        distances = pairwise_squared_distances(anchors[start:stop].detach(), references.detach())
        positive = anchor_labels[start:stop, None] == reference_labels
        negative = ~positive
        if anchor_ids is not None and reference_ids is not None:
            positive &= anchor_ids[start:stop, None] != reference_ids
        elif anchors is references:
            positive.diagonal(start).fill_(False)
        mined = select_triplets(distances, positive, negative, margin)
        found.append(mined._replace(anchor=mined.anchor + start))
    return join_triplets(found)


def row_blocks(
    first: int, last: int, references: Tensor, at_once: int | None = None
) -> list[tuple[int, int]]:
    """Return the first and the last row, not included, of the blocks that are mined at a time.

    By default so many that a block's matrix of distances fits a CPU's cache, which makes mining
    about twice as fast; a graphics processor takes larger ones.
    """
    entries = 2**18 if references.device.type == "cpu" else 2**26
    step = at_once or max(1, entries // max(1, len(references)))
    starts = range(first, last, step) or [first]
    return [(start, min(start + step, last)) for start in starts]


def join_triplets(found: Iterable[Triplets]) -> Triplets:
    """Return the triplets of several blocks as one."""
    return Triplets(*(torch.cat(indices) for indices in zip(*found, strict=True)))


def check_margin(margin: float) -> None:
    """Refuse a margin that selects nothing.

    Raises:
        UsageError: it is not above 0 and at most 4.
    """
    if not 0 < margin <= 4:
        raise UsageError(f"margin {margin!r} is not above 0 and at most 4; FaceNet's is 0.2")


def check_strategy(strategy: str) -> None:
    """Refuse a strategy that is not one of STRATEGIES.

    Raises:
        UnknownNameError: it is not.
    """
    if strategy not in STRATEGIES:
        raise UnknownNameError("mining strategy", strategy, STRATEGIES)
