"""The page of a model."""

from __future__ import annotations

import json
import shlex
from html import escape

from brickyard.core.svg import element
from brickyard.page.content import (
    FIT_LEGEND,
    FIT_TEXTS,
    Demo,
    ModelPage,
    PredictedSample,
    licence_text,
    megabytes,
    metrics_text,
)
from brickyard.page.html import code_block, document, scrollable, section, table, void_element
from brickyard.page.models import Fit, SiteModel
from brickyard.storage.fit import BrickInfo

_MOST_CHARACTERS = 40  # of a class name in a sentence


def model_html(page: ModelPage) -> str:
    """Return the page of a model."""
    model = page.model
    sources = page.demo.sources if isinstance(page.demo, Demo) else ()
    body = [
        element("p", {}, element("a", {"href": "../../index.html"}, "All models")),
        element("h1", {}, escape(model.name)),
        element("p", {}, escape(_sentence(model))),
        _demo_section(page),
        _predictions(page),
        section("metadata", "What it is", _metadata(page), _heads_table(model), *_class_lists(model)),
        section("use", "Use it", *_lines(model)),
        section("heads", "Heads that fit its backbone", *_fitting_heads(page)),
        section("graph", "Its bricks", element("div", {"class": "scroll graph", **scrollable("Graph")}, page.graph)),
    ]
    scripts = ["../../assets/demo.js"] if isinstance(page.demo, Demo) else []
    return document(model.name, "../../", body, scripts, sources)


def _demo_section(page: ModelPage) -> str:
    if isinstance(page.demo, str):
        return section("demo", "Demo", element("p", {}, escape(f"This model has no demo: {page.demo}.")))
    size = megabytes(page.demo.size)
    button = {"type": "button"}
    samples = [
        element(
            "button",
            {**button, "data-sample": f"../../{sample.file}"},
            void_element("img", {"src": f"../../{sample.file}", "alt": "", "loading": "lazy"}),
            element("span", {}, escape(sample.name)),
        )
        for sample in page.samples
    ]
    app = [
        element(
            "div",
            {"class": "controls"},
            void_element("input", {"type": "file", "accept": "image/*", "id": "demo-file", "class": "visually-hidden"}),
            element("label", {"for": "demo-file", "class": "button"}, "Choose a photo"),
            element("button", {**button, "id": "demo-camera", "aria-pressed": "false"}, "Use the camera"),
            element("button", {**button, "id": "demo-save", "disabled": ""}, "Save results as JSON"),
        ),
        element("div", {"class": "samples", "role": "group", "aria-label": "Sample images"}, *samples),
        element(
            "div",
            {"class": "stage"},
            element(
                "div",
                {"class": "drop", "id": "demo-drop"},
                element("canvas", {"id": "demo-canvas", "role": "img", "aria-label": "No photo yet", "hidden": ""}),
                element("p", {"id": "demo-hint"}, "Drop a photo here"),
            ),
            element("div", {"id": "demo-results", "aria-live": "polite"}),
        ),
    ]
    return section(
        "demo",
        "Try it",
        element(
            "p",
            {},
            f"The model runs in this browser, and photos stay on this machine. It is loaded with the first photo: "
            f"{size}, and 14 MB of onnxruntime.",
        ),
        element(
            "p",
            {"id": "demo-fallback"},
            "The demo needs JavaScript, and a page that comes from a web server: ",
            element("code", {}, "brickyard page FOLDER --serve"),
        ),
        element("div", {"id": "demo-app", "hidden": "", "data-config": "demo.json"}, *app),
        element("p", {"id": "demo-status", "role": "status"}),
    )


def _predictions(page: ModelPage) -> str:
    figures = [_figure(sample) for sample in page.samples]
    return section("samples", "Predictions", element("div", {"class": "figures"}, *figures)) if figures else ""


def _figure(sample: PredictedSample) -> str:
    text = f"{sample.name}, {sample.summary}"
    image = element(
        "a", {"href": sample.drawn}, void_element("img", {"src": sample.drawn, "alt": text, "loading": "lazy"})
    )
    return element("figure", {}, image, element("figcaption", {}, escape(sample.name)))


def _metadata(page: ModelPage) -> str:
    model = page.model
    info, images = model.info, model.info.spec.input
    size = f"{images.channels} x {images.size[0]} x {images.size[1]} pixels"
    onnx = f", as ONNX {megabytes(page.demo.size)}" if isinstance(page.demo, Demo) else ""
    rows = {
        "Backbone": f"{info.backbone}, strides {', '.join(map(str, info.spec.features.strides))}",
        "Images": f"{size}, {images.interpolation}" + (" (letterbox)" if images.crop_mode == "letterbox" else ""),
        "Parameters": f"{sum(info.parameters.values()):,}",
        "Size": f"{megabytes(model.size)} of weights{onnx}",
        "Licence": licence_text(model),
        "Weights from": "; ".join(_provenance(model)),
        "Data sets": ", ".join(_datasets(model)),
        "Backbone's sha256": str(model.backbone.sha256 or "unknown"),
    }
    pairs = [element("dt", {}, key) + element("dd", {}, escape(value)) for key, value in rows.items() if value]
    return element("dl", {}, *pairs)


def _heads_table(model: SiteModel) -> str:
    rows = [
        [
            escape(name),
            escape(str(head.task)),
            escape(str(head.config.get("variant", ""))),
            f"{len(head.labels)}",
            escape(metrics_text(head)),
            escape(head.licence or "none stated"),
        ]
        for name, head in model.heads.items()
    ]
    return table("Heads", ["head", "task", "variant", "classes", "metrics", "licence"], rows)


def _class_lists(model: SiteModel) -> list[str]:
    return [
        element(
            "details",
            {},
            element("summary", {}, f"{len(head.labels)} classes of {escape(name)}"),
            element("p", {"class": "classes"}, escape(", ".join(head.labels))),
        )
        for name, head in model.heads.items()
    ]


def _lines(model: SiteModel) -> list[str]:
    """Return the lines that a reader copies."""
    source, quoted = json.dumps(model.source, ensure_ascii=False), shlex.quote(model.source)
    python = [
        "import brickyard",
        "",
        f"model = brickyard.create_model({source}, pretrained=True)",
        f'for prediction in brickyard.Predictor({source}).predict("photo.jpg"):',
        "    print(prediction.results)",
    ]
    shell = [
        f"brickyard predict photo.jpg --model {quoted}",
        f"brickyard export {quoted} model.onnx",
    ]
    return [element("h3", {}, "In Python"), code_block(python), element("h3", {}, "In a shell"), code_block(shell)]


def _fitting_heads(page: ModelPage) -> list[str]:
    fitting = [fit for fit in page.fits if fit.check is not None]
    rows = []
    for fit in fitting:
        head = fit.model.heads[fit.head]
        is_here = fit.model is page.model
        link = escape(fit.model.name)
        if not is_here:
            link = element("a", {"href": f"../{fit.model.folder}/index.html"}, link)
        rows.append(
            [
                escape(fit.head),
                "this model" if is_here else link,
                escape(str(head.task)),
                escape(metrics_text(head)),
                escape(head.licence or "none stated"),
                megabytes((head.weights or {}).get("size") or 0),
                FIT_TEXTS[fit.check],
            ]
        )
    header = ["head", "of", "task", "metrics", "licence", "size", "fits"]
    parts = [
        table("Heads that fit the backbone of this model", header, rows),
        element("p", {"class": "note"}, FIT_LEGEND),
    ]
    others = [fit for fit in fitting if fit.model is not page.model]
    if others:
        python, shell = zip(*map(_swap_lines, others), strict=True)
        parts += [element("h3", {}, "Use one of them"), code_block(python), code_block(shell)]
    return parts


def _swap_lines(fit: Fit) -> tuple[str, str]:
    """Return the line of Python and the line of a shell that put a head into a model."""
    source = fit.model.head_source(fit.head)
    name, text = (json.dumps(value, ensure_ascii=False) for value in (fit.head, source))
    python = "" if fit.check == "exact" else f", check={json.dumps(fit.check)}"
    shell = "" if fit.check == "exact" else f" --check {fit.check}"
    return f"model.swap({name}, {text}{python})", f"brickyard swap FOLDER {fit.head} {shlex.quote(source)}{shell}"


def _sentence(model: SiteModel) -> str:
    heads = [f"{name} (task {head.task}, {_classes(head)})" for name, head in model.heads.items()]
    return f"A model on the backbone {model.info.backbone} with the heads {', '.join(heads)}."


def _classes(head: BrickInfo) -> str:
    labels = head.labels
    if len(labels) < 2:
        return f"{len(labels)} class"
    first, last = (
        label if len(label) <= _MOST_CHARACTERS else f"{label[:_MOST_CHARACTERS]}…" for label in (labels[0], labels[-1])
    )
    return f"{len(labels)} classes from {first} to {last}"


def _provenance(model: SiteModel) -> list[str]:
    return list(dict.fromkeys(str(b.config["source"]) for b in model.bricks.values() if "source" in b.config))


def _datasets(model: SiteModel) -> list[str]:
    return list(dict.fromkeys(str(name) for b in model.bricks.values() for name in b.config.get("datasets", [])))
