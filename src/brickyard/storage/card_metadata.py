"""The metadata of a model card, by which the Hub lists, filters, counts and shows a model."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from huggingface_hub import EvalResult, ModelCardData

from brickyard.core.names import prefix_of
from brickyard.core.version import __version__
from brickyard.recipe.inspection import BACKBONE
from brickyard.storage.fit import BrickInfo
from brickyard.storage.licences import hub_licence
from brickyard.storage.manifest import FORMAT, Manifest, dump
from brickyard.tasks.registry import TASKS

LIBRARY = "brickyard"
_ORGANISATION = "brickyard"  # on the Hub, with the models of the zoo
_REFERENCE = re.compile(r"hf://(?P<repo>[^@]+)@|zoo://(?P<zoo>[^/]+)/")
_HUB_METRICS = {
    "Accuracy": "accuracy",
    "F1": "f1",
    "MeanIoU": "mean_iou",
    "MeanAveragePrecision": "mean_average_precision",
}


def weights_tag(sha256: str) -> str:
    """Return the tag of a repo whose heads were trained on a backbone with this hash."""
    return f"backbone-{sha256[:12]}"


def card_metadata(
    name: str, manifest: Manifest, bricks: Mapping[str, BrickInfo], backbone: BrickInfo | None
) -> ModelCardData:
    """Return the metadata of a model.

    Args:
        name: The name of the model.
        manifest: The manifest of the model.
        bricks: The bricks of the model by path.
        backbone: The backbone that the heads were trained on, if it is known.
    """
    heads = {path: info for path, info in bricks.items() if info.task is not None}
    base = _base_model(manifest, backbone)
    licence = hub_licence([info.licence for info in bricks.values() if info.weights])
    results = [result for path, info in heads.items() for result in _results(path, info)]
    datasets = dict.fromkeys(each for info in bricks.values() for each in info.config.get("datasets", []))
    data = ModelCardData(
        library_name=LIBRARY,
        license=licence.get("license"),
        license_name=licence.get("license_name"),
        pipeline_tag=next((task for info in heads.values() if (task := _hub_task(info))), None),
        base_model=base,
        datasets=list(datasets) or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        tags=_tags(heads, backbone),
        model_name=name if results else None,
        eval_results=results or None,
    )
    if base is not None:
        data["base_model_relation"] = "adapter"
    return data


def hub_config(name: str, bricks: Mapping[str, BrickInfo]) -> str:
    """Return the text of the file that the Hub counts downloads by."""
    tasks = {prefix_of(path): info.task for path, info in bricks.items() if info.task is not None}
    return dump(
        {"format": FORMAT, "name": name, "tasks": tasks, "library_name": LIBRARY, "library_version": __version__}
    )


def _tags(heads: Mapping[str, BrickInfo], backbone: BrickInfo | None) -> list[str]:
    weights = {str(info.requires["sha256"]) for info in heads.values() if info.requires and info.requires["sha256"]}
    if not weights and backbone is not None and backbone.weights and backbone.weights["sha256"]:
        weights = {backbone.weights["sha256"]}
    architecture = []
    if backbone is not None:
        is_timm = backbone.config["type"] == "timm"
        name = backbone.config["args"]["name"].partition(".")[0] if is_timm else backbone.config["type"]
        architecture = [*["timm"] * is_timm, f"architecture-{name}"]
    tasks = sorted({str(info.task) for info in heads.values()})
    return [LIBRARY, *tasks, *map(weights_tag, sorted(weights)), *architecture]


def _base_model(manifest: Manifest, backbone: BrickInfo | None) -> str | None:
    """Return the repo with the backbone, if the model itself does not contain it."""
    entry = manifest.bricks.get(BACKBONE)
    uri = entry.at if entry is not None else None if backbone is None else backbone.uri
    found = _REFERENCE.match(uri or "")
    return None if found is None else found["repo"] or f"{_ORGANISATION}/{found['zoo']}"


def _hub_task(info: BrickInfo) -> str | None:
    return TASKS[str(info.task)].hub_task if info.task in TASKS else None


def _results(path: str, info: BrickInfo) -> list[EvalResult]:
    """Return the metrics of a head whose data set is known."""
    dataset = _dataset(info)
    return [
        EvalResult(
            task_type=_hub_task(info) or str(info.task),
            dataset_type=dataset,
            dataset_name=dataset,
            metric_type=_HUB_METRICS.get(metric, metric),
            metric_value=value,
            metric_name=f"{prefix_of(path)}/{metric}",
        )
        for metric, value in info.config.get("metrics", {}).items()
        if dataset
    ]


def _dataset(info: BrickInfo) -> str | None:
    """Return the data set of the metrics: the first of the head's, else that of the command that measured them."""
    if datasets := info.config.get("datasets"):
        return str(datasets[0])
    try:
        words = shlex.split(info.config.get("measured", ""))
    except ValueError:  # a text that is no command
        return None
    data = words[words.index("--data") + 1 :] if "--data" in words else []
    return data[0].partition(":")[0] if data else None  # what follows is a folder of the author's machine
