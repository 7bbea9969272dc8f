"""Metrics of anomalies against scikit-learn, scipy's labels of regions, and the definition of AUPRO by loops."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import auc, roc_auc_score, roc_curve

from brickyard.parts.anomaly_metrics import (
    ImageAUROC,
    PixelScores,
    anomaly_map_metrics,
    anomaly_metrics,
    connected_regions,
)


def scenes(count=6, size=40, seed=0):
    """Create maps (B, H, W) in [0, 1] and masks with several regions each; some pixels are unknown."""
    rng = np.random.default_rng(seed)
    masks = np.stack([ndimage.gaussian_filter(rng.normal(size=(size, size)), 3) > 0.09 for _ in range(count)])
    masks[0] = False  # a normal image
    maps = ndimage.gaussian_filter(masks + rng.normal(0, 1.2, masks.shape), (0, 1, 1))
    maps = (maps - maps.min()) / (maps.max() - maps.min())
    labels = masks.astype(np.int64)
    labels[:, :2] = 255
    return torch.from_numpy(maps.astype(np.float32)), torch.from_numpy(labels)


def aupro(maps, masks):
    """Per-region overlap at every threshold, integrated to a false positive rate of 0.3."""
    known = masks != 255
    false, thresholds = roc_curve((masks[known] == 1), maps[known], drop_intermediate=False)[::2]
    overlaps = []
    for map_, mask in zip(maps, masks, strict=True):
        regions, count = ndimage.label(mask == 1, np.ones((3, 3)))
        for region in range(1, count + 1):
            found = np.sort(map_[regions == region])
            overlaps.append(1 - np.searchsorted(found, thresholds) / len(found))
    overlap = np.mean(overlaps, axis=0)
    at = np.interp(0.3, false, overlap)
    kept = false < 0.3
    return auc([*false[kept], 0.3], [*overlap[kept], at]) / 0.3


def test_regions_are_those_of_scipy():
    mask = scenes()[1] == 1
    regions = connected_regions(mask)
    assert not regions[~mask].any()
    seen = set()
    for found, single in zip(regions.numpy(), mask.numpy(), strict=True):
        expected, count = ndimage.label(single, np.ones((3, 3)))
        pairs = set(zip(found[single].tolist(), expected[single].tolist(), strict=True))
        assert len(pairs) == count
        assert not seen & {label for label, _ in pairs}
        seen |= {label for label, _ in pairs}


def test_a_spiral_is_one_region():
    spiral = torch.tensor(
        [[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], dtype=torch.bool
    )
    assert len(connected_regions(spiral[None])[0][spiral].unique()) == 1


def test_pixel_metrics_equal_those_without_bins():
    maps, masks = scenes()
    metric = anomaly_map_metrics()
    metric.update(maps[:4], masks[:4])
    metric.update(maps[4:], masks[4:])
    values = metric.compute()
    known = (masks != 255).numpy()
    expected = roc_auc_score((masks == 1).numpy()[known], maps.numpy()[known])
    assert values["PixelAUROC"].item() == pytest.approx(expected, abs=2e-4)
    assert 0.6 < expected < 0.99
    reference = aupro(maps.numpy(), masks.numpy())
    assert values["AUPRO"].item() == pytest.approx(reference, abs=1e-3)
    assert 0.2 < reference < 0.95


def test_a_perfect_map_has_areas_of_1_and_a_constant_one_of_a_guess():
    masks = scenes()[1]
    metric = PixelScores()
    metric.update((masks == 1).float(), masks)
    assert metric.compute() == {"PixelAUROC": 1.0, "AUPRO": pytest.approx(1.0)}
    metric.reset()
    metric.update(torch.full(masks.shape, 0.4), masks)
    assert metric.compute()["PixelAUROC"] == 0.5
    assert metric.compute()["AUPRO"].item() == pytest.approx(0.15)  # the diagonal up to 0.3, divided by 0.3


def test_the_states_of_pixel_metrics_do_not_grow_and_add_up():
    maps, masks = scenes()
    whole, parts = PixelScores(), [PixelScores(), PixelScores()]
    whole.update(maps, masks)
    for part, rows in zip(parts, (slice(0, 3), slice(3, 6)), strict=True):
        part.update(maps[rows], masks[rows])
    for name, state in whole.metric_state.items():
        torch.testing.assert_close(parts[0].metric_state[name] + parts[1].metric_state[name], state)
        assert state.numel() <= 4096


def test_images_without_a_mask_or_a_label_are_left_out():
    maps, masks = scenes()
    kept = torch.tensor([True, False, True, True, False, True])
    metric, alone = PixelScores(), PixelScores()
    metric.update(maps, masks, labelled=torch.ones_like(kept), labelled_mask=kept)
    alone.update(maps[kept], masks[kept])
    assert metric.compute() == alone.compute()
    metric.reset()
    metric.update(maps, masks, labelled=kept)
    assert metric.compute() == alone.compute()
    metric.reset()
    metric.update(maps)
    assert metric.compute() == {}
    metric.update(maps, torch.zeros_like(masks))
    assert metric.compute() == {}, "no anomalous pixel"


def test_the_area_of_images_equals_scikit_learns():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 50)
    scores = np.round(targets * 0.2 + rng.uniform(0, 1, 50), 1).astype(np.float32)  # with ties
    metric = anomaly_metrics()
    metric.update(torch.from_numpy(scores[:20]), torch.from_numpy(targets[:20]))
    metric.update(torch.from_numpy(scores[20:]), torch.from_numpy(targets[20:]))
    assert metric.compute()["AUROC"].item() == pytest.approx(roc_auc_score(targets, scores), abs=1e-6)


def test_one_kind_of_images_has_no_area_and_no_images_no_value():
    metric = ImageAUROC()
    metric.update(torch.rand(3), torch.zeros(3, dtype=torch.int64))
    assert metric.compute()["AUROC"].isnan()
    metric.reset()
    metric.update(torch.rand(3), torch.tensor([0, 1, 0]), torch.zeros(3, dtype=torch.bool))
    assert metric.compute() == {}
