"""Write a static web site of models into a folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, final

from tqdm import tqdm

from brickyard.core.svg import svg_graph
from brickyard.create import create_model
from brickyard.data.images import read_image
from brickyard.inference.predictor import Predictor
from brickyard.page.content import Demo, ModelPage, PredictedSample
from brickyard.page.demo import MODEL, demo_json, export_demo
from brickyard.page.index_page import index_html
from brickyard.page.model_page import model_html
from brickyard.page.models import SiteModel, fits_of, read_models
from brickyard.page.runtime import Runtime, copy_runtime
from brickyard.storage.atomic import replaced_together
from brickyard.storage.sources.zoo import zoo_folders

_ASSETS = ("demo.js", "page.css")  # next to this file
_RUNTIME = "assets/runtime"
_FILES = "site.json"  # lists the files of the site, so that --overwrite removes those of the site before and no others
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.A)
_MAX_SIDE = 1024  # pixels of the longer side of a sample image; larger ones are made smaller
_MIN_SIDE = 320  # pixels; smaller ones are enlarged, so that what is drawn on them can be read
_PHOTOS = (1, 3)  # the numbers of channels of images that `Predictor` reads from files
_CONFIDENCES = ("probability", "score", "share")  # keys of results with values in [0, 1]


def write_page(
    folder: str | os.PathLike[str],
    models: Iterable[str | os.PathLike[str]] | None = None,
    *,
    runtime: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> None:
    """Write a static web site of trained models: an index, and a page for each model.

    A page has what is stored about the model, predictions for sample images (the images in the model's folder, or those
    of this package), the graph of its bricks, the heads of the site that fit its backbone, and lines to copy. A model
    that can be exported to ONNX has a demo that runs in the browser of the reader, whose photos stay there.

    All URLs are relative, so that any static host serves the folder, also below a path. Every text of a model is
    escaped, and the Content-Security-Policy of the pages allows no inline script or style.

    Args:
        folder: The folder. All files change or none.
        models: Names of trained models, folders, locks or repos of the Hub; None for all models of the zoo.
        runtime: A folder of the npm package onnxruntime-web, whose files are copied into the site; by default browsers
            load them from the CDN jsDelivr. Both are checked against the hashes in `page/runtime.py`.
        overwrite: Write into a folder that is not empty. Files of an earlier site are removed, others are kept.
        progress: Whether to show a progress bar.

    Raises:
        FileExistsError: The folder is not empty and `overwrite` is False.
        MissingExtraError: The extra `export` is not installed.
        BrickInputError: A source is no stored model, or one without a backbone.
        BrickNotFoundError, BrickIntegrityError: `runtime` lacks a file, or has one of another version.
        The exceptions of `create_model`.

    Example::

        write_page("site", ["tf_efficientnet_lite0_cls.in1k", "models/mine"])
    """
    site = Path(folder).expanduser()
    if not overwrite and site.exists() and (not site.is_dir() or any(site.iterdir())):
        raise FileExistsError(f"{site} is not an empty folder. Pass overwrite=True (or --overwrite) to write into it.")
    chosen = read_models(zoo_folders() if models is None else models)
    with replaced_together(site) as staging:
        root = staging.folder
        (root / "assets").mkdir()
        for name in _ASSETS:
            shutil.copyfile(Path(__file__).with_name(name), root / "assets" / name)
        source = Runtime() if runtime is None else Runtime(_RUNTIME)
        if runtime is not None:
            copy_runtime(runtime, root / _RUNTIME)
        pages = [
            _write_model(model, root, source, chosen)
            for model in tqdm(chosen, unit="model", disable=None if progress else True, leave=False)
        ]
        (root / "index.html").write_text(index_html(pages), encoding="utf-8")
        files = sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
        _write_json(root / _FILES, {"files": [*files, _FILES]})
        for name in _files_of(site):
            if name not in files:
                staging.remove(name)


def _write_model(model: SiteModel, root: Path, runtime: Runtime, models: list[SiteModel]) -> ModelPage:
    """Write the folder of a model, and return what the index shows of it."""
    folder = root / "models" / model.folder
    folder.mkdir(parents=True)
    collection = create_model(model.location, pretrained=True)
    reason = export_demo(collection, folder / MODEL)
    predictor = Predictor(collection) if reason else Predictor(folder / MODEL)
    demo: Demo | str = reason
    if not reason:
        config = demo_json(model.name, folder / MODEL, predictor, runtime.to_json("../../"))
        _write_json(folder / "demo.json", config)
        demo = Demo(config["size"], runtime.sources)
    files = model.samples if model.info.spec.input.channels in _PHOTOS else ()
    samples = {sample.file: sample for sample in (_write_sample(file, root) for file in files)}
    predicted: list[PredictedSample] = []
    predictions = predictor.predict([root / file for file in samples], draw=True)
    for sample, prediction in zip(samples.values(), predictions, strict=True):
        name = f"predicted-{len(predicted) + 1}.jpg"
        prediction.save(folder / name)
        predicted.append(PredictedSample(sample.name, sample.file, name, _summary(prediction.results)))
    graph = svg_graph(collection.bricks(), styled=False)
    page = ModelPage(model, demo, predicted, graph, fits_of(model.backbone, models))
    (folder / "index.html").write_text(model_html(page), encoding="utf-8")
    return page


@final
@dataclass(frozen=True)
class _Sample:
    """A sample image of the site.

    Attributes:
        name: What it is called.
        file: Its path in the site.
    """

    name: str
    file: str


def _write_sample(file: Path, root: Path) -> _Sample:
    """Write an image anew, without its metadata: a model's folder may have any bytes; equal images become one file."""
    image = read_image(file)
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    factor = -(-_MIN_SIDE // max(image.size))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor))
    content = BytesIO()
    image.save(content, "JPEG", quality=92)
    name = f"assets/samples/{hashlib.sha256(content.getvalue()).hexdigest()[:16]}.jpg"
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content.getvalue())
    return _Sample(file.stem.replace("_", " "), name)


def _summary(results: dict[str, list[dict[str, Any]]]) -> str:
    """Say what was predicted in a few words, for readers who do not see the image."""
    texts = []
    for head, rows in results.items():
        shown = []
        for row in rows[:3]:
            value = next((f" {row[key]:.0%}" for key in _CONFIDENCES if key in row), "")
            shown.append(f"{row['label']}{value}")
        texts.append(f"{head}: {', '.join(shown) or 'nothing'}")
    return "; ".join(texts)


def _write_json(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _files_of(site: Path) -> list[str]:
    """Return the files of the site that is in a folder, [] if there is none."""
    names: list[Any] = []
    with suppress(OSError, ValueError, KeyError, TypeError):
        names = list(json.loads((site / _FILES).read_text(encoding="utf-8"))["files"])
    return [name for name in names if isinstance(name, str) and _NAME.fullmatch(name)]
