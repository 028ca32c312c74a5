"""What a compatibility report holds: rows, gains, calibrations. Plain values with a JSON form.

A report is about people together. It never holds a name, an item id or a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.errors import EvaluationError, FormatError, UnknownNameError, UnsupportedFarError
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.details import Backfill, Distribution, Gain, OpenSet, OrderCurve
from segue.evaluation.roc import LEAST_ACCEPTS
from segue.harmonic.calibration import Calibration

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
"""The version of `report.json`."""

OPERATING_FAR = 1e-2
"""The FAR at which the gate compares and the pictures are drawn."""

SEARCH = "search"
STORED = "stored"
PROTOCOLS = (SEARCH, STORED)
"""v2 probes against a mixed gallery; both sides mixed."""

RANK_MERGE = "rank merge"
"""Probes embedded by v1 and by the twin, each for its part of the gallery: two models a query."""

BRIDGE = "bridge"
"""Probes of the twin, mapped into v1's space for the part of the gallery that is v1."""


STATUS_QUO = "status quo"
"""The role of the deployed version's vectors where the gallery's are another's: a retuned v1."""

RETUNED = "v1 retuned"
"""The row of v1's retuned vectors with themselves, where the gallery holds these."""


def far_text(far: float) -> str:
    """Return a FAR as people write it.

    >>> far_text(0.01), far_text(0.0025)
    ('1e-2', '2.5e-3')
    """
    digits, _, exponent = f"{far:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def metric_of(far: float) -> str:
    """Return how VAL at a FAR is named in gains and areas.

    >>> metric_of(0.01)
    'VAL@1e-2'
    """
    return f"VAL@{far_text(far)}"


RANK1 = "rank-1"
MAP = "mAP"


@dataclass(frozen=True)
class FarPoint:
    """VAL of one row at one FAR, the threshold found on the report's own impostors.

    `against_v1` is the difference to v1 self on the same resamples; `identity_val` gives each
    person the same say; `miss_rate` is the open-set miss rate: the share of probes whose nearest
    mate is refused (a gallery of n items has n * `far` false hits per search). `accepts` counts
    impostor pairs of images, each once. Not `measurable`: fewer than 100, or of too few people.
    """

    far: float
    val: Estimate
    against_v1: Estimate
    identity_val: Estimate
    miss_rate: Estimate
    threshold: float
    accepts: int
    measurable: bool

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FarPoint:
        """Read what `CompatibilityReport.to_json` wrote."""
        return cls(
            far=float(value["far"]),
            val=Estimate.from_json(value["val"]),
            against_v1=Estimate.from_json(value["against_v1"]),
            identity_val=Estimate.from_json(value["identity_val"]),
            miss_rate=Estimate.from_json(value["miss_rate"]),
            threshold=float(value["threshold"]),
            accepts=int(value["accepts"]),
            measurable=bool(value["measurable"]),
        )


@dataclass(frozen=True)
class Deployed:
    """What a threshold set on the calibration people does on the report's people.

    `threshold` is v1's frozen distance for `far` in raw rows, and log10 `far` in calibrated rows.
    """

    far: float
    threshold: float
    realised_far: Estimate
    val: Estimate
    measurable: bool

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Deployed:
        """Read what `CompatibilityReport.to_json` wrote."""
        return cls(
            far=float(value["far"]),
            threshold=float(value["threshold"]),
            realised_far=Estimate.from_json(value["realised_far"]),
            val=Estimate.from_json(value["val"]),
            measurable=bool(value["measurable"]),
        )


@dataclass(frozen=True)
class Row:
    """One way of comparing faces, measured.

    `group` is `self`, `cross`, `search`, `stored`, `rank merge` or `bridge`; mixed rows have a
    `rho` and may be `calibrated`. `negative_flips` is the share of probes right at rank 1 under v1
    and wrong here. `curve` is VAL at the FARs 10^(-k/10), as far as measurable. The intervals of
    AUC and negative flips are None in reports written before they were measured.
    """

    name: str
    group: str
    rho: float | None
    calibrated: bool
    points: tuple[FarPoint, ...]
    auc: float
    rank1: Estimate
    rank1_against_v1: Estimate
    mean_average_precision: Estimate
    map_against_v1: Estimate
    negative_flips: float
    deployed: tuple[Deployed, ...]
    curve: tuple[tuple[float, float], ...]
    auc_interval: Estimate | None = None
    negative_flips_interval: Estimate | None = None

    def at(self, far: float) -> FarPoint:
        """Return the point measured at a FAR.

        Raises:
            EvaluationError: the report has no such FAR.
        """
        for point in self.points:
            if abs(point.far - far) <= 1e-9 * far:
                return point
        known = ", ".join(f"{point.far:g}" for point in self.points)
        raise EvaluationError(
            f"the report has no FAR {far:g}, only {known}; measure it again with that FAR"
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Row:
        """Read what `CompatibilityReport.to_json` wrote."""
        return cls(
            name=str(value["name"]),
            group=str(value["group"]),
            rho=None if value["rho"] is None else float(value["rho"]),
            calibrated=bool(value["calibrated"]),
            points=tuple(FarPoint.from_json(point) for point in value["points"]),
            auc=float(value["auc"]),
            rank1=Estimate.from_json(value["rank1"]),
            rank1_against_v1=Estimate.from_json(value["rank1_against_v1"]),
            mean_average_precision=Estimate.from_json(value["mean_average_precision"]),
            map_against_v1=Estimate.from_json(value["map_against_v1"]),
            negative_flips=float(value["negative_flips"]),
            deployed=tuple(Deployed.from_json(point) for point in value["deployed"]),
            curve=tuple((float(far), float(val)) for far, val in value["curve"]),
            auc_interval=Estimate.or_none(value.get("auc_interval")),
            negative_flips_interval=Estimate.or_none(value.get("negative_flips_interval")),
        )


@dataclass(frozen=True)
class CompatibilityReport:
    """Everything that was measured about an old and a new version; see `measure_compatibility`.

    `people_with_mates` have two images or more. `impostor_pairs` and `genuine_pairs` count pairs of
    images once. `calibrations` are keyed by (probe role, stored role); roles are `v1`, `v2`,
    `twin`, `bridge`, and `status quo` where `v1` is retuned. `orders`, `open_set` and
    `distributions` are empty in reports written before they were measured.
    """

    people: int
    people_with_mates: int
    images: int
    genuine_pairs: int
    impostor_pairs: int
    fars: tuple[float, ...]
    rhos: tuple[float, ...]
    bootstrap: int
    seed: int
    rows: tuple[Row, ...]
    gains: tuple[Gain, ...]
    backfill: tuple[Backfill, ...]
    calibrations: dict[tuple[str, str], Calibration]
    orders: tuple[OrderCurve, ...] = ()
    open_set: tuple[OpenSet, ...] = ()
    distributions: tuple[Distribution, ...] = ()

    def row(self, name: str) -> Row:
        """Return a row by name, such as `v1`, `v2 -> v1` or `search rho=0.5 calibrated`.

        Raises:
            UnknownNameError: there is none; the message lists those that are.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise UnknownNameError("row of the report", name, (row.name for row in self.rows))

    def has(self, name: str) -> bool:
        """Say whether there is a row of that name."""
        return any(row.name == name for row in self.rows)

    def val(self, row: str, far: float) -> Estimate:
        """Return VAL of a row at a FAR that the data supports.

        Raises:
            UnsupportedFarError: too few impostors, or of too few people, for so small a FAR.
            EvaluationError: the report has no such FAR.
            UnknownNameError: there is no such row.
        """
        point = self.row(row).at(far)
        if not point.measurable:
            supported = [each.far for each in self.row(row).points if each.measurable]
            counted = LEAST_ACCEPTS / max(self.impostor_pairs, LEAST_ACCEPTS)
            raise UnsupportedFarError(far, counted if counted > far else min(supported, default=1))
        return point.val

    def mixed(self, group: str, *, calibrated: bool = True) -> tuple[Row, ...]:
        """Return the rows of a mixed group by ascending rho."""
        found = [row for row in self.rows if row.group == group and row.rho is not None]
        return tuple(
            sorted(
                (row for row in found if row.calibrated == calibrated), key=lambda row: row.rho or 0
            )
        )

    def gain(self, metric: str) -> Gain:
        """Return the gain in a metric, such as `VAL@1e-2` or `rank-1`.

        Raises:
            UnknownNameError: it was not measured.
        """
        for gain in self.gains:
            if gain.metric == metric:
                return gain
        raise UnknownNameError("metric of the report", metric, (gain.metric for gain in self.gains))

    @property
    def supported_far(self) -> float:
        """The smallest FAR that the calibration people support on every edge among v1 and v2."""
        return max((each.smallest_far for each in self._mixed_calibrations()), default=0.0)

    def supports(self, far: float) -> bool:
        """Tell whether a threshold for `far` rests on data, on every edge among v1 and v2."""
        return all(each.supports(far) for each in self._mixed_calibrations())

    def _mixed_calibrations(self) -> list[Calibration]:
        """Return the calibrations of the edges that a mixed gallery is ranked by."""
        return [found for edge, found in self.calibrations.items() if set(edge) <= {"v1", "v2"}]

    @property
    def measurable_fars(self) -> tuple[float, ...]:
        """The FARs at which every row is measurable, descending."""
        return tuple(far for far in self.fars if all(row.at(far).measurable for row in self.rows))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with `"format": 1`."""
        value: dict[str, Any] = _plain(
            {
                name: getattr(self, name)
                for name in self.__dataclass_fields__
                if name != "calibrations"
            }
        )
        value["calibrations"] = [
            {"probe": probe, "stored": stored, "calibration": calibration.to_json()}
            for (probe, stored), calibration in self.calibrations.items()
        ]
        return {"format": FORMAT, **value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CompatibilityReport:
        """Read what `to_json` wrote.

        Raises:
            FormatError: it has another format.
            EvaluationError: it is damaged.
        """
        if value.get("format") != FORMAT:
            raise FormatError("the compatibility report", str(value.get("format")), FORMAT)
        try:
            return cls._read(value)
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationError(
                f"the compatibility report is damaged ({error!r}); measure again"
            ) from error

    @classmethod
    def _read(cls, value: Mapping[str, Any]) -> CompatibilityReport:
        counts = {
            name: int(value[name])
            for name in (
                "people",
                "people_with_mates",
                "images",
                "genuine_pairs",
                "impostor_pairs",
                "bootstrap",
                "seed",
            )
        }
        return cls(
            **counts,
            fars=tuple(float(far) for far in value["fars"]),
            rhos=tuple(float(rho) for rho in value["rhos"]),
            rows=tuple(Row.from_json(row) for row in value["rows"]),
            gains=tuple(Gain.from_json(gain) for gain in value["gains"]),
            backfill=tuple(Backfill.from_json(area) for area in value["backfill"]),
            calibrations=_calibrations(value),
            orders=tuple(OrderCurve.from_json(each) for each in value.get("orders", ())),
            open_set=tuple(OpenSet.from_json(each) for each in value.get("open_set", ())),
            distributions=tuple(
                Distribution.from_json(each) for each in value.get("distributions", ())
            ),
        )


def calibrations_of(value: Mapping[str, Any]) -> dict[tuple[str, str], Calibration]:
    """Return the calibrations that `report.json` holds, by (probe role, stored role).

    Raises:
        FormatError: a newer Segue wrote them.
        EvaluationError: they are damaged.
    """
    try:
        return _calibrations(value)
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(
            f"the calibrations of the compatibility report are damaged ({error!r}); measure again"
        ) from error


def _calibrations(value: Mapping[str, Any]) -> dict[tuple[str, str], Calibration]:
    return {
        (str(edge["probe"]), str(edge["stored"])): Calibration.from_json(edge["calibration"])
        for edge in value["calibrations"]
    }


def mixed_name(group: str, rho: float, *, calibrated: bool) -> str:
    """Return the name of a mixed row.

    >>> mixed_name("search", 0.25, calibrated=True)
    'search rho=0.25 calibrated'
    """
    return f"{group} rho={rho:g} {'calibrated' if calibrated else 'raw'}"


def _plain(value: Any) -> Any:
    """Turn dataclasses and tuples into JSON values; estimates into `[value, low, high]`."""
    if isinstance(value, Estimate):
        return value.to_json()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value
