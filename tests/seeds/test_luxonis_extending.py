"""Every class of luxonis-train's page on extending it, in a collection that is trained and exported."""

import json

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torchvision.utils import draw_bounding_boxes

from brickyard import (
    BrickCollection,
    BrickGraphError,
    BrickInputError,
    BrickMismatchError,
    BrickTrainable,
    HeadSpec,
    create_model,
    create_part,
    export_onnx,
    register_part,
    register_task,
)
from brickyard.core.specs import BackboneSpec, FeatureSpec
from brickyard.export.metadata import ExportMetadata
from brickyard.parts import registry as parts
from brickyard.parts.backbones import timm_backbone, timm_spec
from brickyard.storage.config import describe
from brickyard.tasks import registry
from brickyard.tasks.attach import attach_loss, attach_metric, attach_visualizer
from brickyard.tasks.head_arguments import head_arguments
from brickyard.tasks.registry import get_task
from tests.seeds.luxonis_page import (
    BBoxVisualizer,
    BCEWithLogitsLoss,
    CustomSegmentationHead,
    DistanceEstimation,
    DistanceOfBoxes,
    EfficientKeypointBBoxHead,
    InstanceKeypoints,
    InstanceKeypointsLoss,
    MyMetric,
    ResNet,
)


def spec_of_resnet() -> BackboneSpec:
    known = timm_spec(timm_backbone("resnet18"))
    features = FeatureSpec(channels=(64, 128, 256, 512), strides=(4, 8, 16, 32))
    return BackboneSpec(features, embedding=512, input=known.input, num_classes=0)


def segmentation_head(reads: str = "features[-1]") -> dict[str, object]:
    spec = HeadSpec("seg", "custom", num_classes=3)
    part = CustomSegmentationHead(**head_arguments(CustomSegmentationHead, spec_of_resnet(), spec, reads))
    brick = BrickTrainable(part, input_names=[reads], output_names=["./logits"])
    brick.metadata = {"parser": "SegmentationParser", "config": {"is_softmax": True}}
    return {"head": brick}


def segmentation_model() -> BrickCollection:
    head = segmentation_head()
    task = get_task("seg")
    attached = {
        "loss": attach_loss(BCEWithLogitsLoss(), task, "seg", head),
        "metric": attach_metric(MyMetric(), task, "seg", head),
    }
    backbone = BrickTrainable(ResNet(), input_names=["image"], output_names=["features"])
    return BrickCollection({"backbone": backbone, "seg": {**head, **attached}})


def segmentation_batch() -> dict[str, Tensor]:
    return {"image": torch.rand(2, 3, 64, 64), "targets/seg": torch.randint(0, 2, (2, 3, 32, 32)).float()}


def trained(model: BrickCollection, batch: dict[str, object]) -> dict[str, object]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outputs = model(batch)
    sum(model.extract_losses(outputs).values()).backward()
    assert all(weight.grad is not None for weight in model.parameters())
    optimizer.step()
    return outputs


def test_the_backbone_the_head_the_loss_and_the_metric_are_trained():
    model, batch = segmentation_model(), segmentation_batch()
    before = model["seg/head"].model.final.weight.clone()
    outputs = trained(model, batch)
    assert [each.shape[1] for each in outputs["features"]] == [64, 128, 256, 512]
    expected = nn.functional.binary_cross_entropy_with_logits(outputs["seg/logits"], batch["targets/seg"])
    torch.testing.assert_close(outputs["seg/loss"], expected)
    assert not torch.equal(model["seg/head"].model.final.weight, before)
    found, target = outputs["seg/logits"] > 0, batch["targets/seg"] > 0
    summary = model.summarize(reset=True)
    torch.testing.assert_close(summary["seg/MyMetric"], (found & target).sum() / found.sum())
    torch.testing.assert_close(summary["seg/found"], found.float().mean())


def test_the_complex_loss_logs_its_sub_losses_and_sums_only_the_main_one():
    arguments = head_arguments(EfficientKeypointBBoxHead, spec_of_resnet(), HeadSpec("pose", "x", 1), "features[1:3]")
    assert arguments == {"in_channels": [128, 256]}
    names = ["./features", "./class_scores", "./distributions", "./keypoints_raw"]
    head = {"head": BrickTrainable(EfficientKeypointBBoxHead(**arguments), ["features[1:3]"], names)}
    loss = attach_loss(InstanceKeypointsLoss(), InstanceKeypoints(), "pose", head, sub_losses=["boxes", "keypoints"])
    backbone = BrickTrainable(ResNet(), input_names=["image"], output_names=["features"])
    model = BrickCollection({"backbone": backbone, "pose": {**head, "loss": loss}})
    batch = {
        "image": torch.rand(2, 3, 64, 64),
        "targets/pose/boundingbox": torch.rand(2, 4),
        "targets/pose/keypoints": torch.rand(2, 4),
    }
    outputs = model(batch)
    assert model.extract_losses(outputs) == {"pose/loss": outputs["pose/loss"]}
    expected = (outputs["pose/distributions"].mean(dim=2) - batch["targets/pose/boundingbox"]).abs().mean()
    torch.testing.assert_close(outputs["pose/loss_boxes"], expected)
    assert outputs["pose/loss"] > outputs["pose/loss_boxes"] + outputs["pose/loss_keypoints"]
    outputs["pose/loss"].backward()
    assert model["pose/head"].model.layers[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("labelled", [True, False])
def test_the_visualiser_gives_two_pictures_with_labels_and_one_without(labelled):
    model = create_model("test_resnet_det", num_classes=2).eval()
    bricks = {key: brick for key, brick in model["det"].to_dict().items() if key != "visualization"}
    model.pop("det/visualization")
    model["det/seen"] = attach_visualizer(BBoxVisualizer(), get_task("det"), "det", bricks)
    image = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    given = image.clone()
    target = {"boxes": torch.tensor([[2.0, 3.0, 20.0, 25.0]]), "labels": torch.tensor([1])}
    batch = {"image": image, **({"targets/det": [target, target]} if labelled else {})}
    outputs = model(batch, tags={"MODEL", "INFERENCE", "VISUALIZATION"})
    assert torch.equal(image, given)
    assert outputs["det/visualization"].shape == image.shape
    assert not torch.equal(outputs["det/visualization"], image)
    if labelled:
        expected = draw_bounding_boxes(given[0], target["boxes"], colors="red")
        assert torch.equal(outputs["det/target_visualization"][0], expected)
    else:
        assert outputs["det/target_visualization"] is None


# Refused where they cannot be attached


def test_a_head_annotated_for_one_map_is_not_attached_to_several():
    with pytest.raises(
        BrickMismatchError, match=r"Head 'seg' \(CustomSegmentationHead\).*\n.*'in_channels'.*\[64, 128"
    ):
        segmentation_head("features")
    with pytest.raises(BrickMismatchError, match=r"features\[7\]:\n.*4 feature maps"):
        segmentation_head("features[7]")


def test_a_module_is_attached_only_to_tasks_and_heads_that_it_supports():
    head = segmentation_head()
    with pytest.raises(BrickMismatchError, match=r"'seg/BBoxVisualizer'.*\n.*tasks: Detection; found: Segmentation"):
        attach_visualizer(BBoxVisualizer(), get_task("seg"), "seg", head)
    with pytest.raises(BrickMismatchError, match=r"heads: EfficientKeypointBBoxHead; found: CustomSegmentationHead"):
        attach_loss(InstanceKeypointsLoss(), InstanceKeypoints(), "seg", head)


def test_an_argument_that_nothing_provides_is_named_with_what_there_is():
    def loss(predictions: Tensor, mask: Tensor) -> Tensor:
        return predictions.mean() * mask

    with pytest.raises(BrickGraphError, match=r"Brick 'seg/loss'.*'mask'.*\['logits'\].*\['seg'\]"):
        attach_loss(loss, get_task("seg"), "seg", segmentation_head())


# Custom tasks and their labels


@pytest.mark.parametrize("task", [DistanceEstimation(), DistanceOfBoxes()])
def test_a_custom_task_tells_the_names_of_its_labels(task):
    values = {name: label.value for name, label in task.labels("cars").items()}
    own = "boundingbox" if type(task) is DistanceEstimation else "det"
    assert values == {own: "targets/cars", "distance": "targets/cars/distance"}
    head = {"head": BrickTrainable(nn.Identity(), ["embedding"], [f"./{task.main_output}", "./meters"])}

    def loss(predictions: Tensor, meters: Tensor, target_distance: Tensor) -> Tensor:
        return (meters - target_distance).abs().mean()

    assert task.wire(loss, "cars", head) == {
        "predictions": f"./{task.main_output}",
        "meters": "./meters",
        "target_distance": "targets/cars/distance",
    }
    with pytest.raises(BrickGraphError, match=rf"'target'\. The task has 2 labels: target_{own}, target_distance"):
        task.wire(BCEOfAny(), "cars", head)


class BCEOfAny(nn.Module):
    def forward(self, predictions: Tensor, target: Tensor) -> Tensor:
        return self.criterion(predictions, target)


@pytest.fixture
def distance():
    task = register_task(DistanceOfBoxes())
    yield task
    del registry._TASKS["distance"]


def test_a_task_that_adds_a_label_to_detection_is_trained_with_it_and_refuses_another_type(distance, tmp_path):
    model = create_model("test_resnet_distance", num_classes=2)
    target = {"boxes": torch.tensor([[2.0, 3.0, 20.0, 25.0]]), "labels": torch.tensor([1])}
    batch = {"image": torch.rand(2, 3, 64, 64), "targets/distance": [target, target]}
    for right in (torch.rand(2), torch.tensor([1, 2])):
        outputs = model({**batch, "targets/distance/distance": right}, tags={"MODEL", "LOSS"})
        assert outputs["distance/loss"].isfinite()
    for wrong, found in ((["near", "far"], "str"), (torch.tensor([True, False]), "bool")):
        with pytest.raises(BrickInputError, match=rf"expected 'distance' of type float or int, found {found}"):
            model({**batch, "targets/distance/distance": wrong}, tags={"MODEL", "LOSS"})
    model.save_pretrained(tmp_path)
    assert "distance/metadata" in create_model(f"local-dir:{tmp_path}").bricks()


# Stored and exported


@pytest.fixture
def _registered(monkeypatch):
    monkeypatch.setattr(parts, "_registered", dict(parts._registered))
    register_part("custom_segmentation")(CustomSegmentationHead)
    register_part("instance_keypoints_loss")(InstanceKeypointsLoss)


@pytest.mark.usefixtures("_registered")
def test_parser_and_configuration_are_in_the_brick_s_json():
    part = create_part("custom_segmentation", in_channels=8, num_classes=2)
    brick = BrickTrainable(part, ["features[-1]"], ["./logits"])
    brick.metadata = {"parser": "SegmentationParser", "config": {"is_softmax": True}}
    stored = json.loads(json.dumps(describe(brick)))
    assert (stored["parser"], stored["config"]) == ("SegmentationParser", {"is_softmax": True})


@pytest.mark.usefixtures("_registered")
def test_a_loss_with_sub_losses_is_stored_if_it_is_a_registered_part():
    arguments = {"in_channels": [4, 4]}
    names = ["./features", "./class_scores", "./distributions", "./keypoints_raw"]
    head = {"head": BrickTrainable(EfficientKeypointBBoxHead(**arguments), ["features[1:3]"], names)}
    loss = create_part("instance_keypoints_loss")
    brick = attach_loss(loss, InstanceKeypoints(), "pose", head, sub_losses=["boxes", "keypoints"])
    stored = describe(brick)
    again = create_part(stored["type"], **stored["args"])
    assert type(again.loss) is InstanceKeypointsLoss
    assert again.names == ("boxes", "keypoints")
    assert parts.part_of(again) == parts.part_of(brick.wrapped)


@pytest.mark.slow
@pytest.mark.usefixtures("_registered")
def test_the_exported_file_has_the_parser_and_the_configuration(tmp_path):
    model = create_model("test_resnet_seg", num_classes=2)
    spec = model["backbone"].provides
    arguments = head_arguments(CustomSegmentationHead, spec, HeadSpec("seg", "custom", 2))
    head = BrickTrainable(create_part("custom_segmentation", **arguments), ["features[-1]"], ["./coarse"])
    head.head = model["seg/head"].head
    head.metadata = {"parser": "SegmentationParser", "config": {"is_softmax": True}}
    model["seg/head"] = head
    trained(model, {"image": torch.rand(2, 3, 64, 64), "targets/seg": torch.randint(0, 2, (2, 64, 64))})
    export_onnx(model, tmp_path / "model.onnx", image_size=64)
    stored = onnx.load(tmp_path / "model.onnx").metadata_props
    facts = ExportMetadata.from_text({each.key: each.value for each in stored}, "the file")
    assert facts.heads["seg"]["parser"] == "SegmentationParser"
    assert facts.heads["seg"]["config"] == {"is_softmax": True}
    assert np.prod(facts.image.size) == 64 * 64
