"""Average precision of masks against torchmetrics, of key points against pycocotools' way of use and by hand."""

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import multiprocessing
from torchmetrics.detection import MeanAveragePrecision

from brickyard.parts.instances.metrics import (
    KeypointAveragePrecision,
    MaskAveragePrecision,
    instance_keypoint_metrics,
    mask_metrics,
)

SIZE, IMAGES, N, M, K, J = (48, 64), 6, 5, 4, 2, 3
SIGMAS = [0.05, 0.1, 0.07]


def scene(seed=0, images=IMAGES):
    """Random objects, and detections that are the same objects, moved a little, and some others."""
    rng = np.random.default_rng(seed)
    batch = {
        "boxes": np.zeros((images, N, 4)), "scores": np.zeros((images, N)), "labels": np.full((images, N), -1),
        "masks": np.zeros((images, N, *SIZE)), "keypoints": np.zeros((images, N, J, 3)),
        "target_boxes": np.zeros((images, M, 4)), "target_labels": np.full((images, M), -1),
        "target_masks": np.zeros((images, M, *SIZE), np.uint8), "target_keypoints": np.zeros((images, M, J, 3)),
    }  # fmt: skip
    for image in range(images):
        for row in range(rng.integers(0, M + 1)):
            label, (x, y), (w, h) = rng.integers(K), rng.integers(0, 24, 2), rng.integers(8, 24, 2)
            points = rng.uniform(0, 1, (J, 2)) * [w, h] + [x, y]
            visible = rng.integers(0, 3, J)
            batch["target_boxes"][image, row], batch["target_labels"][image, row] = (x, y, x + w, y + h), label
            batch["target_masks"][image, row, y : y + h, x : x + w] = 1
            batch["target_keypoints"][image, row] = np.c_[points, visible]
            if rng.random() < 0.8:
                dx, dy = rng.integers(0, 4, 2)
                batch["boxes"][image, row] = (x + dx, y + dy, x + dx + w, y + dy + h)
                batch["labels"][image, row] = label if rng.random() < 0.8 else 1 - label
                batch["scores"][image, row] = rng.random()
                batch["masks"][image, row, y + dy : y + dy + h, x + dx : x + dx + w] = 1
                batch["keypoints"][image, row] = np.c_[points + rng.normal(0, 2, (J, 2)), rng.random(J)]
    floats = {name: torch.from_numpy(value) for name, value in batch.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in floats.items()}


def of_masks(batch):
    names = ("boxes", "scores", "labels", "masks", "target_labels", "target_masks")
    return {name: batch[name] for name in names}


def of_points(batch):
    names = ("scores", "labels", "keypoints", "target_boxes", "target_labels", "target_keypoints")
    return {name: batch[name] for name in names}


def by_torchmetrics(batch):
    metric = MeanAveragePrecision(iou_type="segm", backend="faster_coco_eval")
    for image in range(len(batch["labels"])):
        found, truth = batch["labels"][image] >= 0, batch["target_labels"][image] != -1
        labels = batch["target_labels"][image][truth]
        metric.update(
            [{
                "masks": batch["masks"][image][found] > 0.5,
                "scores": batch["scores"][image][found],
                "labels": batch["labels"][image][found],
            }],
            [{
                "masks": batch["target_masks"][image][truth].bool(),
                "labels": torch.where(labels < -1, -2 - labels, labels),
                "iscrowd": (labels < -1).long(),
            }],
        )  # fmt: skip
    return metric.compute()


def assert_equal(values, expected):
    for name, value in values.items():
        torch.testing.assert_close(value, torch.where(expected[name] < 0, torch.nan, expected[name]), equal_nan=True)


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_of_masks_equals_torchmetrics(seed):
    batch = scene(seed)
    batch["target_labels"][0, 0] = -2  # a crowd
    metric = MaskAveragePrecision()
    for rows in (slice(0, 2), slice(2, IMAGES)):
        metric.update(**{name: value[rows] for name, value in of_masks(batch).items()})
    values, expected = metric.compute(), by_torchmetrics(batch)
    assert 0 < expected["map_50"] < 1
    assert {"map", "map_50", "map_75", "mar_100"} <= values.keys()
    assert_equal(values, expected)


def test_small_masks_are_resized_to_the_image():
    batch = scene()
    small = {**of_masks(batch), "masks": torch.nn.functional.avg_pool2d(batch["masks"], 4)}
    metric = MaskAveragePrecision()
    metric.update(**small)
    up = torch.nn.functional.interpolate(small["masks"], size=SIZE, mode="bilinear", align_corners=False)
    y, x = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    left, top, right, bottom = batch["boxes"].unbind(dim=-1)
    inside = (x >= left[..., None, None]) & (x < right[..., None, None])
    inside &= (y >= top[..., None, None]) & (y < bottom[..., None, None])
    assert_equal(metric.compute(), by_torchmetrics({**batch, "masks": up * inside}))


def annotations(batch):
    """The key points in COCO's format."""
    truth, found = [], []
    for image in range(len(batch["labels"])):
        for row, label in enumerate(batch["target_labels"][image].tolist()):
            if label != -1:
                x1, y1, x2, y2 = batch["target_boxes"][image, row].tolist()
                points = batch["target_keypoints"][image, row]
                truth.append({
                    "id": len(truth) + 1, "image_id": image, "category_id": -2 - label if label < -1 else label,
                    "iscrowd": int(label < -1), "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": 0.53 * (x2 - x1) * (y2 - y1), "keypoints": points.flatten().tolist(),
                    "num_keypoints": int((points[:, 2] > 0).sum()),
                })  # fmt: skip
        for row, label in enumerate(batch["labels"][image].tolist()):
            if label >= 0:
                points, score = batch["keypoints"][image, row].flatten().tolist(), batch["scores"][image, row].item()
                found.append({"image_id": image, "category_id": label, "score": score, "keypoints": points})
    return truth, found


def by_coco(batch):
    truth, found = annotations(batch)
    images = [{"id": image, "height": SIZE[0], "width": SIZE[1]} for image in range(len(batch["labels"]))]
    categories = [{"id": index, "name": "x"} for index in range(K)]
    coco = COCO({"images": images, "categories": categories, "annotations": truth})
    evaluator = COCOeval_faster(coco, coco.loadRes(found), "keypoints", kpt_oks_sigmas=SIGMAS)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return dict(zip(("map", "map_50", "map_75", "map_medium", "map_large", "mar_20"), evaluator.stats, strict=False))


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_of_key_points_equals_coco(seed):
    batch = scene(seed)
    batch["target_labels"][0, 0] = -2  # a crowd
    batch["target_keypoints"][1, :, :, 2] = 0  # objects without a labelled key point are ignored
    metric = KeypointAveragePrecision(SIGMAS)
    for rows in (slice(0, 2), slice(2, IMAGES)):
        metric.update(**{name: value[rows] for name, value in of_points(batch).items()})
    expected = by_coco(batch)
    assert 0 < expected["map_50"] < 1
    assert_equal(metric.compute(), {name: torch.tensor(value, dtype=torch.float32) for name, value in expected.items()})


def test_one_pose_has_the_expected_similarity():
    # Key points are 3 pixels away; the area is 0.53 * 400. A tolerance of 0.05 gives exp(-9 / (2 * 212 * 0.01)) = 0.12,
    # one of 0.1 gives 0.59. The mean of the two labelled ones is 0.35, or 0.59 if both have the larger tolerance.
    truth = torch.tensor([[[[10.0, 10, 2], [20, 20, 1], [0, 0, 0]]]])
    batch = {
        "scores": torch.tensor([[0.9]]), "labels": torch.tensor([[0]]),
        "keypoints": truth + torch.tensor([3.0, 0, 0]), "target_boxes": torch.tensor([[[5.0, 5, 25, 25]]]),
        "target_labels": torch.tensor([[0]]), "target_keypoints": truth,
    }  # fmt: skip
    for sigmas, expected in (([0.05, 0.1, 0.1], 0.0), ([0.1, 0.1, 0.1], 0.2)):  # 0.59 is enough for 0.50 and 0.55
        metric = KeypointAveragePrecision(sigmas)
        metric.update(**batch)
        assert metric.compute()["map"].item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("create", "chosen"), [(mask_metrics, of_masks), (lambda: instance_keypoint_metrics(SIGMAS), of_points)]
)
def test_unlabelled_images_and_no_objects(create, chosen):
    batch, labelled = chosen(scene()), torch.tensor([True, False, True, False, True, False])
    metrics, alone = create(), create()
    metrics.update(**batch, labelled=labelled)
    alone.update(**{name: value[labelled] for name, value in batch.items()})
    values = metrics.compute()
    assert {"map", "map_50"} <= values.keys()
    for name, value in alone.compute().items():
        torch.testing.assert_close(value, values[name], equal_nan=True)
    metrics.reset()
    metrics.update(**{**batch, "labels": torch.full_like(batch["labels"], -1)})
    assert metrics.compute()["map"] == 0
    metrics.reset()
    metrics.update(**{**batch, "target_labels": torch.full_like(batch["target_labels"], -1)})
    assert metrics.compute()["map"].isnan()
    metrics.reset()
    metrics.update(**batch, labelled=torch.zeros(IMAGES, dtype=torch.bool))
    assert metrics.compute()["map"].isnan()


def one_of_two(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    rows = slice(0, 4) if rank == 0 else slice(4, IMAGES)
    computed = []
    for metric, batch in (
        (MaskAveragePrecision(), of_masks(scene())),
        (KeypointAveragePrecision(SIGMAS), of_points(scene())),
    ):
        metric.update(**{name: value[rows] for name, value in batch.items()})
        if rank == 0:
            metric.update(**{name: value[:0] for name, value in batch.items()})  # one batch more than the other process
        computed.append(metric.compute())
    torch.save(computed, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_with_different_numbers_of_images_agree(tmp_path):
    multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    masks, points = by_torchmetrics(scene()), by_coco(scene())
    points = {name: torch.tensor(value, dtype=torch.float32) for name, value in points.items()}
    for rank in (0, 1):
        of_rank = torch.load(tmp_path / f"{rank}.pt")
        assert_equal(of_rank[0], masks)
        assert_equal(of_rank[1], points)
