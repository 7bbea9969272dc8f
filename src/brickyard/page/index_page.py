"""The index of a site."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from brickyard.core.svg import element
from brickyard.page.content import FIT_LEGEND, FIT_TEXTS, Demo, ModelPage, licence_text, megabytes, metrics_text
from brickyard.page.html import document, section, table, void_element
from brickyard.page.models import SiteModel


def index_html(pages: Sequence[ModelPage]) -> str:
    """Return the index of models."""
    cards = element("ul", {"class": "cards"}, *(_card(page) for page in pages))
    body = [
        element("h1", {}, "Models"),
        element("p", {}, "Vision models made of bricks: one pass of a backbone serves every head that fits it."),
        cards,
        section("fits", "Which heads fit which backbone", _fits_matrix(pages)),
    ]
    return document("Models", "", body)


def _card(page: ModelPage) -> str:
    model = page.model
    url = f"models/{model.folder}/index.html"
    image = ""
    if page.samples:
        sample = page.samples[0]
        source = f"models/{model.folder}/{sample.drawn}"
        image = void_element("img", {"src": source, "alt": f"{sample.name}, {sample.summary}", "loading": "lazy"})
    tags = [element("li", {}, escape(str(head.task))) for head in model.heads.values()]
    if isinstance(page.demo, Demo):
        tags.append(element("li", {"class": "demo"}, "live demo"))
    lines = [_first_metrics(model), f"{licence_text(model)}, {megabytes(model.size)}"]
    return element(
        "li",
        {},
        element("h2", {}, element("a", {"href": url}, escape(model.name))),
        image,
        element("ul", {"class": "tags"}, *tags),
        *(element("p", {}, escape(line)) for line in lines if line),
    )


def _first_metrics(model: SiteModel) -> str:
    first = [
        f"{name} {metrics.split(', ')[0]}" for name, head in model.heads.items() if (metrics := metrics_text(head))
    ]
    return ", ".join(first)


def _fits_matrix(pages: Sequence[ModelPage]) -> str:
    """Return a table with a row for each head and a column for each backbone."""
    columns: dict[str, list[ModelPage]] = {}
    for page in pages:
        columns.setdefault(str(page.model.backbone.sha256), []).append(page)
    header = ["head", *(f"{same[0].model.info.backbone} {sha256[:12]}" for sha256, same in columns.items())]
    rows: dict[tuple[str, str], list[str]] = {}
    for same in columns.values():
        for fit in same[0].fits:
            link = element("a", {"href": f"models/{fit.model.folder}/index.html"}, escape(fit.model.name))
            key = fit.model.folder, fit.head
            rows.setdefault(key, [f"{escape(fit.head)} of {link}"]).append(FIT_TEXTS[fit.check])
    return table("Heads and backbones", header, rows.values()) + element("p", {"class": "note"}, FIT_LEGEND)
