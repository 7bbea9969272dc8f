"""Comparisons for bench.py: both sides alternately in one run, and a table of their ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

Run = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One comparison; below 1, brickyard is ahead.

    Attributes:
        what: That is measured.
        peer: That it is compared with.
        ratio: Ours to theirs, the median.
        low: Its first quartile.
        high: Its third.
        ours: The median of our own figure.
        unit: Of that: "ms", "s" or "MB".
        note: Why, where the peer is ahead.
    """

    what: str
    peer: str
    ratio: float
    low: float
    high: float
    ours: float
    unit: str = "ms"
    note: str = ""


def compare(what: str, peer: str, ours: Run, theirs: Run, *, rounds: int, calls: int = 1, note: str = "") -> Row:
    """Time both sides alternately; which goes first changes with each round."""
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in tqdm(range(rounds + 1), desc=what, leave=False, disable=None):
        pair = [("ours", ours), ("theirs", theirs)]
        for side, run in pair if number % 2 else pair[::-1]:
            start = time.perf_counter()
            for _ in range(calls):
                run()
            if number:  # the first round warms up
                seconds[side].append((time.perf_counter() - start) / calls)
    return of_figures(what, peer, seconds["ours"], seconds["theirs"], note=note)


def of_figures(
    what: str, peer: str, ours: list[float], theirs: list[float], *, unit: str = "ms", note: str = ""
) -> Row:
    """The row of figures that were taken alternately: seconds for "ms" and "s", bytes for "MB"."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    scale = {"ms": 1e3, "s": 1.0, "MB": 1e-6}[unit]
    return Row(what, peer, ratio, low, high, statistics.median(ours) * scale, unit, note)


def as_markdown(rows: list[Row]) -> str:
    lines = ["| what | against | ratio | quartiles | ours |", "|---|---|---|---|---|"]
    for row in rows:
        quartiles = f"{row.low:.3g} to {row.high:.3g}" if row.low != row.high else ""
        peer = f"{row.peer} ({row.note})" if row.note else row.peer
        lines.append(f"| {row.what} | {peer} | **{row.ratio:.3g}** | {quartiles} | {row.ours:.3g} {row.unit} |")
    return "\n".join(lines) + "\n"
