"""`brickyard train` with several `--data`: each head is trained on its own data set."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

from brickyard import BrickCollection, create_model
from brickyard.cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore:.* starts with fresh weights:UserWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two folders of images by class, with other classes, and a model with a head for each."""
    root = tmp_path_factory.mktemp("several")
    for name, classes in {"animals": ("cat", "dog"), "fruits": ("apple", "fig", "kiwi")}.items():
        for split in ("train", "val", "test"):
            for label in classes:
                (root / name / split / label).mkdir(parents=True)
                for index in range(3):
                    image = Image.fromarray(np.random.default_rng(index).integers(0, 256, (32, 32, 3), np.uint8))
                    image.save(root / name / split / label / f"{index}.png")
    heads = {"animal": "cls", "fruit": "cls"}
    create_model(backbone="test_resnet", tasks=heads, num_classes=dict.fromkeys(heads, 2)).save_pretrained(
        root / "model"
    )
    return {name: root / name for name in ("animals", "fruits", "model")}


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def train(folders: dict[str, Path], out: Path, *options: object) -> str:
    data = [f"--data=animal=imagefolder:{folders['animals']}", f"--data=fruit=imagefolder:{folders['fruits']}"]
    short = ["--steps", 2, "--every", 2, "--batch-size", 3, "--image-size", 32]
    return run("train", folders["model"], *data, *short, "--out", out, *options)


def test_each_head_gets_the_classes_of_its_data_set(folders: dict[str, Path], tmp_path: Path) -> None:
    train(folders, tmp_path / "run", "--ratio", "1:2")
    trained = BrickCollection.from_pretrained(tmp_path / "run" / "last")
    assert trained["animal/head"].head.labels == ("cat", "dog")
    assert trained["fruit/head"].head.labels == ("apple", "fig", "kiwi")
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"validation/animal/Accuracy", "validation/fruit/Accuracy"} <= {name for row in rows for name in row}
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["ratio"] == "1:2"
    assert [text.partition("=")[0] for text in settings["data"]] == ["animal", "fruit"]


def test_the_file_of_a_run_repeats_it(folders: dict[str, Path], tmp_path: Path) -> None:
    train(folders, tmp_path / "first", "--ratio", "2:1")
    run("train", "--config", tmp_path / "first" / "config.yaml", "--out", tmp_path / "second")
    first, second = (BrickCollection.from_pretrained(tmp_path / name / "last") for name in ("first", "second"))
    expected = first.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in second.state_dict().items())


def test_one_head_is_evaluated_on_its_data_set(folders: dict[str, Path], tmp_path: Path) -> None:
    train(folders, tmp_path / "run")
    text = f"fruit=imagefolder:{folders['fruits']}"
    run("eval", tmp_path / "run" / "last", "--data", text, "--json", tmp_path / "metrics.json")
    metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert "fruit/Accuracy" in metrics
    assert not any(name.startswith("animal/Accuracy") for name in metrics)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "lane=digits"], "unknown head 'lane': expected one of animal, fruit"),
        (["--data", "animal=digits", "--ratio", "1:2"], "expected 1 numbers, one for each --data"),
        (["--data", "animal=digits", "--ratio", "1:-2"], "expected a positive number for each --data"),
        (["--data", "animal=digits-text"], "Unknown label 'cls'"),
    ],
)
def test_bad_data_is_told_before_the_training(
    folders: dict[str, Path], tmp_path: Path, options: list[str], message: str
) -> None:
    result = CliRunner().invoke(main, ["train", str(folders["model"]), "--out", str(tmp_path / "run"), *options])
    assert result.exit_code != 0
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()
