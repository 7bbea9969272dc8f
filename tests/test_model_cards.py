"""The zoo and its cards tell the same, and what they tell is so."""

import json
import re
from dataclasses import asdict

import numpy as np
import onnxruntime
import pytest
import torch
from add_to_zoo import command_of
from card_images import combined_from
from make_cards import CARDS, cards, zoo

from brickyard import TrainingConfig, create_model, evaluate, export_onnx, model_info, open_data
from brickyard.cli.train import train
from brickyard.storage.card import CARD
from brickyard.tasks.registry import get_task, task_variants
from tests.toys import ROOT

NAMES = [folder.name for folder in zoo()]
COMBINED = "tf_efficientnet_lite0_cls-multilabel_depth_seg-tower_det_pose-masks_kpt_emb_fomo_anomaly_ocr.digits_v1"
DIGITS = [name for name in NAMES if "digits" in name and name != COMBINED]


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
    assert (len(sharing), files) == (8, ["tf_efficientnet_lite0_cls.in1k"])


def test_the_combined_model_has_a_head_for_every_task_and_no_weights():
    assert set(model_info(COMBINED).tasks.values()) == set(task_variants()) - {"inst"}  # `pose-masks` segments, too
    assert not list((ROOT / "zoo" / COMBINED).rglob("*.safetensors"))


def test_a_head_gives_the_same_outputs_to_the_bit_among_all_others():
    image = {"image": torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))}
    together = create_model(COMBINED, pretrained=True).eval()
    compared = set()
    for name in combined_from(COMBINED):
        alone = create_model(name, pretrained=True).eval()
        for head in model_info(name).tasks:
            outputs = [f"{head}/{get_task(model_info(name).tasks[head]).main_output}"]
            with torch.inference_mode():
                (found,), (expected,) = (model(image, outputs=outputs).values() for model in (together, alone))
            assert torch.equal(found, expected), head
            compared.add(head)
    assert compared == set(model_info(COMBINED).tasks)


@pytest.mark.slow
def test_the_combined_model_is_one_file_for_onnxruntime(tmp_path):
    model = create_model(COMBINED, pretrained=True).eval()
    export_onnx(model, tmp_path / "all.onnx")  # compares the outputs with those of the model
    assert {tmp_path / "all.onnx"} == set(tmp_path.iterdir())
    image = np.random.default_rng(0).random((1, 3, 96, 96), dtype=np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "all.onnx", providers=["CPUExecutionProvider"])
    outputs = dict(
        zip([output.name for output in session.get_outputs()], session.run(None, {"image": image}), strict=True)
    )
    assert {name.partition("/")[0] for name in outputs} == set(model_info(COMBINED).tasks)
    with torch.inference_mode():
        expected = model({"image": torch.from_numpy(image)}, outputs=["depth/depth", "emb/vector", "anomaly/map"])
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value.numpy(), rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIGITS)
def test_a_fresh_evaluation_gives_the_card_s_metrics(name):
    ((measured, data),) = re.findall(r"with `brickyard eval (\S+) --data (\S+)`", (CARDS / f"{name}.md").read_text())
    assert measured == name
    size = model_info(name).spec.input.size
    figures = evaluate(create_model(name, pretrained=True), open_data(data, "test", image_size=size))
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
