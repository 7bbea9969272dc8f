"""Which results of a head are reported and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt


@final
@dataclass(frozen=True)
class Selection:
    """Limits of the results of a head.

    Attributes:
        threshold: The lowest score.
        topk: The largest number of results, None for all.
        classes: The indices of the classes, None for all.
    """

    threshold: float = 0.0
    topk: int | None = None
    classes: tuple[int, ...] | None = None

    def mask(self, scores: npt.NDArray[Any], classes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Mark the candidates within the limits.

        Args:
            scores: (N,), the score of each candidate.
            classes: (N,), its class.

        Returns:
            (N,) bool.

        Example:
            >>> Selection(0.2, topk=1).mask(np.array([0.1, 0.5, 0.9]), np.array([0, 1, 2])).tolist()
            [False, False, True]
        """
        kept: npt.NDArray[np.bool_] = scores >= self.threshold
        if self.classes is not None:
            kept &= np.isin(classes, self.classes)
        if self.topk is not None:
            best = np.argsort(np.where(kept, -scores, np.inf), kind="stable")[: self.topk]
            kept &= np.isin(np.arange(len(scores)), best)
        return kept
