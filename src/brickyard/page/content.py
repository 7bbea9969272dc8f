"""What the pages of a site show, and how they word it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from brickyard.page.models import Fit, SiteModel
from brickyard.storage.fit import BrickInfo

FIT_TEXTS = {
    "exact": "exact",  # trained on these weights of the backbone
    "input": "input",
    "shape": "shape",
    None: "no",
}
FIT_LEGEND = (
    "exact: trained on these weights of the backbone. input: the same features and images, other weights. shape: the "
    "same features, a start for fine-tuning. no: does not fit."
)


@final
@dataclass(frozen=True)
class PredictedSample:
    """A sample image of a model with its prediction.

    Attributes:
        name: What the image is called.
        file: The path of the image in the site.
        drawn: The file with the prediction drawn on it, next to the model's page.
        summary: What was predicted, in words.
    """

    name: str
    file: str
    drawn: str
    summary: str


@final
@dataclass(frozen=True)
class Demo:
    """The demo of a page.

    Attributes:
        size: The bytes of the exported model.
        sources: URLs that the page loads from elsewhere, see `Runtime.sources`.
    """

    size: int
    sources: Sequence[str]


@final
@dataclass(frozen=True)
class ModelPage:
    """What the page of a model shows.

    Attributes:
        model: The model.
        demo: Its demo, or why it has none.
        samples: The predictions for sample images.
        graph: The bricks as an `<svg>` element.
        fits: How each head of the site fits its backbone.
    """

    model: SiteModel
    demo: Demo | str
    samples: Sequence[PredictedSample]
    graph: str
    fits: Sequence[Fit]


def metrics_text(head: BrickInfo) -> str:
    """Return the measured metrics of a head, "" without any."""
    metrics: Mapping[str, float] = head.config.get("metrics", {})
    return ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())


def licence_text(model: SiteModel) -> str:
    """Return the licences of a model's weights."""
    licences = [brick.licence or "none stated" for brick in model.bricks.values() if brick.weights]
    return ", ".join(dict.fromkeys(licences)) or "none stated"


def megabytes(size: int) -> str:
    """Return a number of bytes as text."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
