"""The zoo and its cards tell the same, and what they tell is so."""

import json
import re
from dataclasses import asdict

import pytest
from add_to_zoo import command_of
from make_cards import CARDS, cards, zoo

from brickyard import TrainingConfig, create_model, evaluate, model_info, open_data
from brickyard.cli.train import train
from brickyard.storage.card import CARD
from tests.toys import ROOT

NAMES = [folder.name for folder in zoo()]
DIGITS = [name for name in NAMES if "digits" in name]


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_its_model_is(name):
    short, whole = cards(ROOT / "zoo" / name)
    assert (ROOT / "zoo" / name / CARD).read_text(encoding="utf-8") == short
    assert (CARDS / f"{name}.md").read_text(encoding="utf-8") == whole


@pytest.mark.parametrize("name", NAMES)
def test_a_card_has_the_numbers_of_the_model(name):
    card, info = (CARDS / f"{name}.md").read_text(encoding="utf-8"), model_info(name)
    model = create_model(name, pretrained=True)
    for path, count in info.parameters.items():
        assert count == sum(parameter.numel() for parameter in model[path].parameters())
        assert f"| `{path}` | {count:,} |" in card
    for metric, value in info.metrics.items():
        head, _, short = metric.partition("/")
        assert f"| `{head}` | {short} | {value:.4f} |" in card


def test_every_image_and_table_belongs_to_a_model():
    assert {file.stem for file in (CARDS / "images").iterdir()} == set(NAMES)
    assert {file.stem for file in CARDS.glob("*.md")} == set(NAMES)
    assert set(json.loads((CARDS / "measured.json").read_text(encoding="utf-8"))) <= set(NAMES)


def test_the_zoo_is_small():
    sizes = {name: sum(file.stat().st_size for file in (ROOT / "zoo" / name).rglob("*.*")) for name in NAMES}
    assert sum(sizes.values()) < 40e6
    assert sizes["test_resnet_cls-multilabel_seg-tower_det.digits_v1"] < 3e6


def test_one_backbone_file_serves_several_models():
    sharing = [name for name in NAMES if name.startswith("tf_efficientnet_lite0")]
    files = [name for name in sharing if (ROOT / "zoo" / name / "backbone.safetensors").exists()]
    assert (len(sharing), files) == (3, ["tf_efficientnet_lite0_cls.in1k"])


@pytest.mark.slow
@pytest.mark.parametrize("name", DIGITS)
def test_a_fresh_evaluation_gives_the_card_s_metrics(name):
    command = next(iter(re.findall(r"with `brickyard eval (\S+) --data (\S+)`", (CARDS / f"{name}.md").read_text())))
    assert command == (name, "digits")
    figures = evaluate(create_model(name, pretrained=True), open_data("digits", "test"))
    told = model_info(name).metrics
    assert told
    # Another kind of processor adds in another order, which may move one of some thousand digits over a threshold.
    assert {metric: figures[metric] for metric in told} == pytest.approx(told, abs=1e-3)


@pytest.mark.parametrize("flip", [True, False])
def test_the_command_of_a_training_is_one_that_the_command_line_takes(flip):
    settings = {"model": "test_resnet_cls", "data": "digits", "image_size": None, "flip": flip, "pretrained": True}
    course = {**asdict(TrainingConfig(steps=7, ema=0.999)), "bricks": ["backbone=zoo://x"], "freeze": ["backbone"]}
    words = command_of({**settings, **course}).split()
    taken = train.make_context("train", words[2:]).params
    assert {name: taken[name] for name in ("model", "flip", "pretrained", "steps", "ema", "freeze")} == {
        "model": "test_resnet_cls",
        "flip": flip,
        "pretrained": True,
        "steps": 7,
        "ema": 0.999,
        "freeze": ("backbone",),
    }
