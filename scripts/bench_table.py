"""Comparisons for bench.py: both sides run alternately in one process; a table of their ratios."""

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
    """One comparison; a ratio below 1 means that brickyard is faster or smaller.

    Attributes:
        what: What is measured.
        peer: The implementation that brickyard is compared with.
        ratio: Median of the ratios brickyard / peer.
        low: First quartile of the ratios.
        high: Third quartile of the ratios.
        ours: Median of the measurements of brickyard.
        unit: Unit of `ours`: "ms", "s" or "MB".
        note: Explains a ratio above 1.
    """

    what: str
    peer: str
    ratio: float
    low: float
    high: float
    ours: float
    unit: str = "ms"
    note: str = ""


def compare(what: str, peer: str, ours: Run, peer_run: Run, *, rounds: int, calls: int = 1, note: str = "") -> Row:
    """Time both sides alternately; the side that runs first changes with each round."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for number in tqdm(range(rounds + 1), desc=what, leave=False, disable=None):
        pair = [("ours", ours), ("peer", peer_run)]
        for side, run in pair if number % 2 else pair[::-1]:
            start = time.perf_counter()
            for _ in range(calls):
                run()
            if number:  # the first round warms up
                seconds[side].append((time.perf_counter() - start) / calls)
    return row_of(what, peer, seconds["ours"], seconds["peer"], note=note)


def row_of(
    what: str, peer: str, ours: list[float], peer_values: list[float], *, unit: str = "ms", note: str = ""
) -> Row:
    """Create a row from alternating measurements: seconds for the units "ms" and "s", bytes for "MB"."""
    ratios = [value / peer_value for value, peer_value in zip(ours, peer_values, strict=True)]
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
