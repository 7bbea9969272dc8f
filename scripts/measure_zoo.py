"""Measure speed, swaps and shared training of the digit models for their cards, into model_cards/measured.json.

    python scripts/measure_zoo.py speed
    python scripts/measure_zoo.py swap
    python scripts/measure_zoo.py sharing --together runs/all --alone runs/cls runs/seg runs/det

`sharing` reads runs that differ only in their models, with OPTIONS being "--data digits --steps 1500
--batch-size 16 --lr 0.002 --ema 0.999 --every 1500":

    brickyard train test_resnet_cls-multilabel_seg-tower_det $OPTIONS --out runs/all
    brickyard train test_resnet_cls-multilabel $OPTIONS --out runs/cls
    brickyard train test_resnet_seg-tower $OPTIONS --out runs/seg
    brickyard train test_resnet_det $OPTIONS --out runs/det
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from bench_table import compare

from brickyard import BrickCollection, Stage, create_model, evaluate, model_info, open_data
from brickyard.tasks.registry import get_task
from brickyard.training.run_folder import SETTINGS, read_settings

MEASURED = Path(__file__).parents[1] / "model_cards" / "measured.json"
SHARED, OTHER_HEAD = (
    "tf_efficientnet_lite0_cls-multilabel_seg-tower_det.digits_v1",
    "tf_efficientnet_lite0_seg-unet.digits_v1",
)
WHOLE = "test_resnet_cls-multilabel_seg-tower_det.digits_v1"
MAIN_METRIC = {"cls": "F1", "seg": "MeanIoU", "det": "map_50"}


def speed(name: str) -> dict[str, Any]:
    """Time one pass for all tasks against one model per task, and against the backbone only."""
    model = create_model(name, pretrained=True).eval()
    tags = Stage.INFERENCE.tags
    single = {head: model.sub_collection(tags, [f"{head}/{output}"]) for head, output in _outputs(model).items()}
    backbone = model.sub_collection(tags, ["features"])
    inputs = {"image": torch.rand(1, 3, *model_info(name).spec.input.size)}
    torch.set_num_threads(1)
    with torch.inference_mode():
        together = lambda: model(inputs, tags=tags)  # noqa: E731
        rows = [
            compare(
                "one model per task", "", together, lambda: [m(inputs, tags=tags) for m in single.values()], rounds=40
            ),
            compare("backbone only", "", together, lambda: backbone(inputs, tags=tags), rounds=40),
        ]
    side = inputs["image"].shape[-1]
    return {
        "title": "Speed",
        "text": f"Latency of all {len(single)} tasks in one forward pass relative to the baseline in the first column: "
        f"one CPU core, batch size 1, {side} x {side} pixels, alternating runs. Measured with "
        "`python scripts/measure_zoo.py speed`.",
        "columns": ["baseline", "ratio", "quartiles"],
        "rows": [[row.what, f"{row.ratio:.2f}", f"{row.low:.2f} to {row.high:.2f}"] for row in rows],
    }


def swap() -> dict[str, Any]:
    """Compare the metrics of a model with its segmentation head and with that of another model."""
    data = open_data("digits", "test")
    model = create_model(SHARED, pretrained=True)
    before = evaluate(model, data, progress=True)
    model.swap("seg", f"zoo://{OTHER_HEAD}/seg")
    after = evaluate(model, data, progress=True)
    info = {name: model_info(name) for name in (SHARED, OTHER_HEAD)}
    scores = [f"{head}/{metric}" for head, metric in MAIN_METRIC.items()]
    return {
        "title": "Swapping a head",
        "text": f'`model.swap("seg", "zoo://{OTHER_HEAD}/seg")` replaces the segmentation head with one '
        "trained on the same frozen backbone. The metrics of the other tasks do not change. Measured with "
        "`python scripts/measure_zoo.py swap`.",
        "columns": ["`seg` of", "parameters of `seg/head`", *(f"`{score}`" for score in scores)],
        "rows": [
            [name, f"{info[name].parameters['seg/head']:,}", *(f"{metrics[score]:.4f}" for score in scores)]
            for name, metrics in ((SHARED, before), (OTHER_HEAD, after))
        ],
    }


def sharing(together: Path, alone: list[Path]) -> dict[str, Any]:
    """Compare the metrics of tasks trained together and separately."""
    data = open_data("digits", "test")
    settings = [read_settings(run / SETTINGS) for run in (together, *alone)]
    same = {key: value for key, value in settings[0].items() if key != "model"}
    if any({**each, **same} != each for each in settings):
        raise SystemExit("The runs differ in more than their models.")
    shared, *single = (
        evaluate(BrickCollection.from_pretrained(run / "last"), data, progress=True) for run in (together, *alone)
    )
    rows = []
    for head, metric in MAIN_METRIC.items():
        score = f"{head}/{metric}"
        separate = next(metrics[score] for metrics in single if score in metrics)
        rows.append(
            [f"`{score}`", f"{shared[score]:.4f}", f"{separate:.4f}", f"{100 * (shared[score] - separate):+.1f}"]
        )
    return {
        "title": "Multi-task against single-task training",
        "text": f"One model trained on the three tasks, and one model per task with its separate backbone, for "
        f"{same['steps']} steps each with the same settings. Measured with `python scripts/measure_zoo.py sharing` on "
        "the test split. The single-task model of `cls` has hardly converged by then, also at learning rates of 0.0005 "
        "and 0.006: an image-level label is a weaker training signal than masks and boxes.",
        "columns": ["metric", "multi-task", "single-task", "difference in points"],
        "rows": rows,
    }


def save_table(name: str, table: dict[str, Any]) -> None:
    tables = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    others = [each for each in tables.get(name, []) if each["title"] != table["title"]]
    tables[name] = sorted([*others, table], key=lambda each: str(each["title"]))
    MEASURED.write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "swap", "sharing"))
    parser.add_argument("--together", type=Path, help="folder of the run with all tasks")
    parser.add_argument("--alone", type=Path, nargs="*", default=[], help="folders of the runs with one task each")
    options = parser.parse_args()
    if options.what == "speed":
        for name in (SHARED, WHOLE):
            save_table(name, speed(name))
    elif options.what == "swap":
        save_table(SHARED, swap())
    else:
        save_table(WHOLE, sharing(options.together, options.alone))


def _outputs(model: BrickCollection) -> dict[str, str]:
    """Return the main output of each head."""
    return {head: get_task(head).main_output for head in MAIN_METRIC if head in model}


if __name__ == "__main__":
    main()
