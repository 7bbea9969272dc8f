"""The classes of luxonis-train's page on extending it, as it shows them, but for names."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.utils import draw_bounding_boxes

from brickyard import Task
from brickyard.parts.blocks import conv3x3_bn_act
from brickyard.parts.metric_state import BaseMetric, MetricState
from brickyard.tasks.cls import Classification
from brickyard.tasks.det import Detection
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.seg import Segmentation

# Custom tasks


class DistanceEstimation(Task):
    name = "distance"

    @property
    def required_labels(self) -> set[str | Metadata]:
        return {"boundingbox", Metadata("distance", float | int)}

    @property
    def main_output(self) -> str:
        return "boundingbox"


class DistanceOfBoxes(Detection):
    name = "distance"

    @property
    def required_labels(self) -> set[str | Metadata]:
        return super().required_labels | {Metadata("distance", float | int)}


class InstanceKeypoints(Task):
    name = "instances"
    required_labels = frozenset({"boundingbox", "keypoints"})


# Custom nodes


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        theirs = resnet18()
        self.conv1, self.bn1, self.relu, self.maxpool = theirs.conv1, theirs.bn1, theirs.relu, theirs.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []

        x = self.conv1(x)
        x = self.bn1(x)
        x = self.relu(x)
        x = self.maxpool(x)

        x = self.layer1(x)
        outputs.append(x)
        x = self.layer2(x)
        outputs.append(x)
        x = self.layer3(x)
        outputs.append(x)
        x = self.layer4(x)
        outputs.append(x)

        return outputs


def UpBlock(in_channels: int, out_channels: int) -> nn.Module:  # noqa: N802 - their block, of ours
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2),
        conv3x3_bn_act(out_channels, out_channels, padding=1),
    )


class CustomSegmentationHead(nn.Module):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()

        self.up1 = UpBlock(in_channels, 256)
        self.up2 = UpBlock(256, 128)
        self.up3 = UpBlock(128, 64)
        self.up4 = UpBlock(64, 32)

        self.final = nn.Conv2d(32, num_classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up1(x)
        x = self.up2(x)
        x = self.up3(x)
        x = self.up4(x)

        return self.final(x)


class EfficientKeypointBBoxHead(nn.Module):
    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(channels, 9, kernel_size=1) for channels in in_channels)

    def forward(self, features: list[Tensor]) -> dict[str, object]:
        maps = [layer(each) for layer, each in zip(self.layers, features, strict=True)]
        flat = torch.cat([each.flatten(2) for each in maps], dim=2)
        return {
            "features": maps,
            "class_scores": flat[:, :1],
            "distributions": flat[:, 1:5],
            "keypoints_raw": flat[:, 5:],
        }


# Custom attached modules


class BCEWithLogitsLoss(nn.Module):
    supported_tasks = (Segmentation, Classification)

    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.BCEWithLogitsLoss()

    def forward(self, predictions: Tensor, target: Tensor) -> Tensor:
        return self.criterion(predictions, target)


class InstanceKeypointsLoss(nn.Module):
    supported_heads = (EfficientKeypointBBoxHead,)
    supported_tasks = (InstanceKeypoints,)

    def forward(
        self,
        features: list[Tensor],
        class_scores: Tensor,
        distributions: Tensor,
        keypoints_raw: Tensor,
        target_boundingbox: Tensor,
        target_keypoints: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        scale = class_scores.sigmoid().mean() + features[0].square().mean()
        boxes = (distributions.mean(dim=2) - target_boundingbox).abs().mean()
        keypoints = (keypoints_raw.mean(dim=2) - target_keypoints).abs().mean()
        return scale + boxes + keypoints, {"boxes": boxes, "keypoints": keypoints}


class MyMetric(BaseMetric):
    true_positives: Annotated[Tensor, MetricState(default=0)]
    false_positives: Annotated[Tensor, MetricState(default=0)]
    total: Annotated[Tensor, MetricState(default=0)]

    def update(self, predictions: Tensor, target: Tensor) -> None:
        found = predictions > 0
        self.true_positives += (found & (target > 0)).sum()
        self.false_positives += (found & (target == 0)).sum()
        self.total += target.numel()

    def compute(self) -> tuple[Tensor, dict[str, Tensor]]:
        found = self.true_positives + self.false_positives
        return self.true_positives / found.clamp(min=1), {"found": found / self.total}


class BBoxVisualizer(nn.Module):
    supported_tasks = (Detection,)

    def forward(
        self,
        prediction_canvas: Tensor,
        target_canvas: Tensor,
        predictions: list[Tensor],
        target: list[dict[str, Tensor]] | None,
    ) -> tuple[Tensor, Tensor] | Tensor:
        predictions_viz = draw(prediction_canvas, list(predictions))

        if target is None:
            return predictions_viz

        target_viz = draw(target_canvas, [each["boxes"] for each in target])
        return target_viz, predictions_viz


def draw(canvas: Tensor, boxes: list[Tensor]) -> Tensor:
    for picture, found in zip(canvas, boxes, strict=True):
        picture.copy_(draw_bounding_boxes(picture, found.clamp(0, 31).sort(dim=0).values, colors="red"))
    return canvas
