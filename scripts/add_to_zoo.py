"""Add a trained model to zoo/: half precision, with its metrics on the test split and the command of its training.

    python scripts/add_to_zoo.py runs/digits --name tf_efficientnet_lite0_seg-unet.digits_v1 --refer backbone

A training in two stages is given as two runs, of which the second started from the last model of the first.

The stored model is measured: the metrics in the JSON of each head are those of `brickyard eval`. Run
`scripts/make_cards.py` afterwards.
"""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from brickyard import Brick, BrickCollection, evaluate, open_data
from brickyard.cli.train import ImageSize, train
from brickyard.core.names import prefix_of
from brickyard.training.run_folder import SETTINGS, read_settings

ZOO = Path(__file__).parents[1] / "zoo"
LICENCE = "apache-2.0"
_REPORTED = (
    "ExactMatch",
    "F1",
    "Precision",
    "Recall",
    "MeanAveragePrecision",
    "MeanIoU",
    "PixelAccuracy",
    "map",
    "map_50",
    "map_75",
    "map_small",
    "mask_map",
    "mask_map_50",
    "mask_map_75",
    "PCK@0.1",
    "PCK@0.2",
    "PixelError",
    "Recall@1",
    "Recall@5",
    "RMSE",
    "AbsRel",
    "AUROC",
    "PixelAUROC",
    "AUPRO",
    "CharErrorRate",
)


def command_of(settings: dict[str, Any], out: str = "runs/digits") -> str:
    """Return the command of a training from the settings in its folder."""
    words = ["brickyard", "train", settings["model"]]
    for option in train.params:
        value = settings.get(option.name)
        if not isinstance(option, click.Option) or value is None or f"{value}" == f"{option.default}":
            continue
        if option.is_flag:
            words += (option.opts if value else option.secondary_opts)[:1]
            continue
        for each in value if option.multiple else [value]:
            words += [option.opts[0], f"{each:g}" if isinstance(each, float) else f"{each}"]
    return f"{shlex.join(words)} --out {out}"


def commands_of(runs: list[Path]) -> str:
    """Return the commands of the stages of a training, the later ones from the last model of the one before."""
    outs = [f"runs/digits-{number}" for number in range(1, len(runs))] + ["runs/digits"]
    commands = []
    for run, out, before in zip(runs, outs, [None, *outs[:-1]], strict=True):
        settings = read_settings(run / SETTINGS)
        command = command_of(settings if before is None else {**settings, "model": f"{before}/last"}, out)
        stopped = _last_step(run)
        commands.append(command if stopped == settings["steps"] else f"{command} (stopped at step {stopped})")
    return "; ".join(commands)


def _last_step(run: Path) -> int:
    """Return the step of the last validation of a run, whose model is `last`."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return max(row["step"] for row in rows if any(name.startswith("validation/") for name in row))


def add(runs: list[Path], name: str, refer: list[str], thresholds: dict[str, float]) -> None:
    settings = read_settings(runs[-1] / SETTINGS)
    model = BrickCollection.from_pretrained(runs[-1] / "last")
    for path, source in (brick.split("=", 1) for brick in read_settings(runs[0] / SETTINGS)["bricks"]):
        model.swap(path, source)  # it was frozen: refer to the published brick
    for head, threshold in thresholds.items():
        model[f"{head}/decode"].wrapped.score_threshold = threshold
    folder, tag = ZOO / name, name.rpartition(".")[2]
    trained = [path for path, brick in model.bricks().items() if _has_weights(brick) and path not in refer]
    for path in trained:
        model[path].module.half()
    model.save_pretrained(folder, weights=tag, refer=refer)

    stored = BrickCollection.from_pretrained(folder)
    (data_name,) = settings["data"]
    data = open_data(data_name, "test", image_size=ImageSize().convert(settings["image_size"], None, None))
    metrics = {metric: round(value, 4) for metric, value in evaluate(stored, data, progress=True).items()}
    source = commands_of(runs)
    for path in trained:
        metadata, prefix = stored[path].metadata, f"{prefix_of(path)}/"
        metadata |= {"licence": LICENCE, "source": source}
        if (threshold := thresholds.get(prefix_of(path))) is not None:
            metadata["source"] += f"  # then score_threshold={threshold}, the best on the validation split"
        if stored[path].head is not None:
            height, width = data[0]["image"].shape[-2:]
            stored[path].head = replace(stored[path].head, image_size=(int(height), int(width)))
            metadata["measured"] = f"brickyard eval {name} --data {data_name}"
            metadata["metrics"] = {
                metric: metrics[prefix + metric] for metric in _REPORTED if prefix + metric in metrics
            }
    stored.save_pretrained(folder, weights=tag, refer=refer)
    print(json.dumps(metrics, indent=2))


def _has_weights(brick: Brick) -> bool:
    return brick.module is not None and bool(brick.module.state_dict())


def main() -> None:
    parser = argparse.ArgumentParser(description="Add a trained model to zoo/.")
    parser.add_argument("runs", type=Path, nargs="+", help="folder of the run, or of those of its stages")
    parser.add_argument("--name", required=True, help="name of the zoo model, with its tag")
    parser.add_argument("--refer", nargs="*", default=[], help="bricks of another zoo model to refer to")
    parser.add_argument("--score-threshold", nargs="*", default=[], metavar="HEAD=NUMBER", help="of decoders")
    options = parser.parse_args()
    thresholds = {head: float(number) for head, number in (text.split("=") for text in options.score_threshold)}
    add(options.runs, options.name, options.refer, thresholds)


if __name__ == "__main__":
    main()
