"""Numbers and tables as Markdown: rates, intervals, points."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from segue.evaluation.bootstrap import Estimate


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with one line for each row."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def rate(value: float) -> str:
    """Return a rate with three decimals and no leading zero.

    >>> rate(0.5179), rate(1.0), rate(-0.25)
    ('.518', '1.000', '-.250')
    """
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def interval(estimate: Estimate) -> str:
    """Return a rate with its interval: `.518 [.420, .560]`."""
    return f"{rate(estimate.value)} [{rate(estimate.low)}, {rate(estimate.high)}]"


def maybe(estimate: Estimate | None) -> str:
    """Return a rate with its interval, or a dash for what was not measured."""
    return "–" if estimate is None else interval(estimate)


def percent(estimate: Estimate) -> str:
    """Return a share in percent: `39 % [22, 56]`."""
    value, low, high = (100 * x for x in estimate.to_json())
    return f"{value:.0f} % [{low:.0f}, {high:.0f}]"


def points(estimate: Estimate) -> str:
    """Return a difference of rates in points: `+3.0 [+0.9, +5.6]`."""
    # Adding 0.0 turns -0.0 into 0.0.
    value, low, high = (round(100 * x, 1) + 0.0 for x in estimate.to_json())
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
