import json

import numpy as np
import pytest
import torch
from PIL import Image

from brickyard import BrickInputError, BrickMismatchError, Predictor, create_model, create_model_for, model_info
from brickyard.core.specs import KeypointSpec
from brickyard.data.geometry import resize_geometry
from brickyard.data.label_kinds import LabelKind
from brickyard.parts import run_lengths
from brickyard.tasks.registry import get_task
from brickyard.tasks.selection import Selection
from tests.tasks.shapes import CORNERS, LABELS, model_of, triangles

TASK = get_task("pose")


def values():
    """Two objects of a 64 x 64 image with two key points each, and padding."""
    return {
        "boxes": np.array([[16.0, 8, 32, 24], [32, 40, 64, 64], [0, 0, 0, 0]], dtype=np.float32),
        "scores": np.array([0.75, 0.5, 0.0], dtype=np.float32),
        "labels": np.array([1, 0, -1]),
        "keypoints": np.array(
            [[[16.0, 8, 0.5], [32, 24, 0.25]], [[40, 48, 1], [70, 50, 0]], [[0, 0, 0], [0, 0, 0]]], dtype=np.float32
        ),
    }


def test_the_default_is_one_class_with_the_17_key_points_of_coco():
    head = create_model("test_resnet_pose")["pose/head"].head
    assert head.labels == ("0",)
    assert head.keypoints.names == tuple(map(str, range(17)))
    assert head.keypoints.sigmas[:3] == (0.026, 0.025, 0.025)
    assert len(head.keypoints.sigmas) == 17


@pytest.mark.parametrize("given", [4, ["a", "b", "c", "d"], KeypointSpec(("a", "b", "c", "d"), sigmas=(0.1,) * 4)])
def test_key_points_are_a_number_names_or_a_specification(given):
    model = create_model("test_resnet_pose-masks", keypoints=given)
    keypoints = model["pose/head"].head.keypoints
    assert len(keypoints.names) == 4
    assert keypoints.sigmas == (given.sigmas if isinstance(given, KeypointSpec) else (0.067,) * 4)
    assert model["pose/loss"].model.sigmas == keypoints.sigmas
    assert create_model("test_resnet_pose_cls", keypoints={"pose": given})["pose/head"].head.keypoints == keypoints


def test_key_points_of_another_task_and_impossible_ones_are_refused():
    with pytest.raises(BrickInputError, match="keypoints of 'det': expected none, found 4"):
        create_model("test_resnet_det", keypoints=4)
    with pytest.raises(BrickInputError, match="keypoints of 'pose': expected 1 or more, found 0"):
        create_model("test_resnet_pose", keypoints=0)
    with pytest.raises(BrickInputError, match="keypoints: expected a dictionary"):
        create_model("test_resnet_pose_cls", keypoints=4)


def test_results_are_json_with_the_key_points_in_pixels_of_the_image():
    geometry = resize_geometry((128, 32), (64, 64), "squash")
    results = TASK.results(TASK.on_image(TASK.select(values(), Selection(0.6)), geometry), LABELS)
    assert json.loads(json.dumps(results)) == [
        {
            "label": "green",
            "class": 1,
            "score": 0.75,
            "box": [8.0, 16.0, 16.0, 48.0],
            "keypoints": [[8.0, 16.0, 0.5], [16.0, 48.0, 0.25]],
        }
    ]


def test_key_points_outside_of_the_image_stay_there():
    results = TASK.results(TASK.on_image(values(), resize_geometry((64, 64), (64, 64), "squash")), LABELS)
    assert results[1]["keypoints"][1] == [70.0, 50.0, 0.0]


@pytest.mark.parametrize("token", ["pose", "pose-masks"])
def test_a_predictor_reports_key_points_and_masks_of_the_original_image(token, tmp_path):
    model = model_of(token).eval()
    model["pose/head"].model.logits.bias.data.fill_(1.0)
    pixels = np.random.default_rng(0).integers(0, 255, (120, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    prediction = next(Predictor(model, topk=3).predict(tmp_path / "image.png", draw=True))
    results = json.loads(json.dumps(prediction.to_json()["pose"]))
    assert len(results) == 3
    for each in results:
        assert len(each["keypoints"]) == 3
        assert ("segmentation" in each) == (token == "pose-masks")
        if "segmentation" in each:
            assert run_lengths.decode(each["segmentation"]).shape == (120, 400)
        center = np.array(each["box"]).reshape(2, 2).mean(axis=0)
        near = np.abs(np.array(each["keypoints"])[:, :2] - center)
        assert (near < [400, 120]).all()
    assert prediction.visualization.width == 400


class Data:
    """A data set of one sample that declares its key points."""

    def __init__(self, keypoints=CORNERS, labels=LABELS):
        self.labels = {"pose": tuple(labels)}
        self.kinds = {"pose": LabelKind.INSTANCE_POINTS}
        self.keypoints = {"pose": keypoints}

    def __len__(self):
        return 1

    def __getitem__(self, index):
        batch = triangles("pose")
        return {"image": batch["image"][0], "targets/pose": batch["targets/pose"][0]}


def test_a_head_gets_the_key_points_of_the_data(tmp_path):
    model = create_model_for(Data(), "test_resnet_pose")
    assert model["pose/head"].head.keypoints == CORNERS
    model.save_pretrained(tmp_path)
    other = KeypointSpec(("tip", "tail"))
    with pytest.warns(UserWarning, match="fresh weights"):
        changed = create_model_for(Data(other), f"local-dir:{tmp_path}")
    assert changed["pose/head"].head.keypoints == other
    assert torch.equal(
        next(changed["backbone"].parameters()), next(create_model(f"local-dir:{tmp_path}")["backbone"].parameters())
    )


def test_data_with_other_key_points_is_refused_by_their_names():
    from brickyard.training.matching import check_labels  # noqa: PLC0415

    model = model_of("pose")
    check_labels(model, Data())
    with pytest.raises(BrickMismatchError, match=r"head 'pose': expected the 3 key points .*'top left'.*found .*'a'"):
        check_labels(model, Data(KeypointSpec(("a", "b", "c"))))


def test_a_stored_head_says_what_its_key_points_are(tmp_path):
    model_of("pose").save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "pose" / "head.json").read_text())
    assert stored["keypoints"] == CORNERS.to_json()
    assert stored["keypoints"]["skeleton"] == [[0, 1], [1, 2], [2, 0]]
    assert model_info(f"local-dir:{tmp_path}").tasks == {"pose": "pose"}
    stored["keypoints"]["skeleton"] = [[0, 7]]
    (tmp_path / "pose" / "head.json").write_text(json.dumps(stored))
    with pytest.raises(BrickMismatchError):
        create_model(f"local-dir:{tmp_path}")
