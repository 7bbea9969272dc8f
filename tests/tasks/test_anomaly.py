import numpy as np
import pytest
import torch

from brickyard import BrickInputError, Predictor, Stage, create_model
from brickyard.core.specs import HeadInfo
from brickyard.data.geometry import resize_geometry
from brickyard.tasks.registry import get_task
from brickyard.tasks.selection import Selection
from tests.tasks import checks

LABELS = ["normal", "anomalous"]


def stripes(count=8, anomalous=(), size=64):
    """Stripes in two directions; anomalous images have a bright square."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    image, mask = np.empty((count, 3, size, size), dtype=np.float32), np.zeros((count, size, size), dtype=np.int64)
    for row in range(count):
        waves = np.sin(x / 3 + rng.uniform(0, 6)) + np.sin(y / 4 + rng.uniform(0, 6))
        image[row] = 0.4 + 0.1 * waves + rng.normal(0, 0.02, (3, size, size))
        if row in anomalous:
            top, left = rng.integers(8, size - 24, 2)
            image[row, :, top : top + 16, left : left + 16] = rng.uniform(0.8, 1, (3, 1, 1))
            mask[row, top : top + 16, left : left + 16] = 1
    return {
        "image": torch.from_numpy(image),
        "targets/anomaly": torch.from_numpy(mask.any(axis=(1, 2)).astype(np.int64)),
        "targets/anomaly/mask": torch.from_numpy(mask),
    }


def model_of(**options):
    torch.manual_seed(0)
    return create_model("test_resnet_anomaly", **options)


def labelled(model, batch, **others):
    return model({**batch, **others}, tags=checks.TRAINED)


def test_the_classes_are_normal_and_anomalous():
    model = model_of()
    assert model["anomaly/head"].head == HeadInfo("anomaly", "simplenet", tuple(LABELS))
    assert model.required_inputs(tags=Stage.TRAIN.tags) == ["image", "targets/anomaly"]
    assert model.required_inputs(tags=Stage.TEST.tags) == ["image", "targets/anomaly"], "masks are optional"
    assert model_of(labels=["good", "broken"])["anomaly/head"].head.labels == ("good", "broken")
    with pytest.raises(BrickInputError, match="num_classes of 'anomaly': expected 2, normal and anomalous, found 3"):
        model_of(num_classes=3)


@pytest.mark.parametrize(
    ("backbone", "size"), [("test_resnet", (97, 131)), ("test_convnext", (97, 131)), ("test_vit", (160, 160))]
)
def test_the_map_covers_the_image_on_any_backbone(backbone, size):
    model = create_model(f"{backbone}_anomaly")
    batch = {"image": torch.rand(2, 3, *size), "targets/anomaly": torch.tensor([0, 0])}
    model(batch, tags=checks.TRAINED)["anomaly/loss"].backward()
    values = model.eval()({"image": batch["image"]}, tags=Stage.INFERENCE.tags)
    assert values["anomaly/map"].shape == (2, *size)
    assert ((values["anomaly/map"] >= 0) & (values["anomaly/map"] <= 1)).all()
    torch.testing.assert_close(values["anomaly/score"], values["anomaly/map"].amax(dim=(1, 2)))
    assert values["anomaly/logits"].shape[1] == 1
    assert "anomaly/noise" not in values, "no random number in prediction"


def test_the_head_is_small():
    model = create_model("tf_efficientnet_lite0_anomaly")
    assert sum(weight.numel() * 4 for weight in model["anomaly"].parameters()) < 100_000  # bytes


def test_every_weight_of_the_head_is_trained_and_none_of_the_backbone():
    model = model_of()
    checks.assert_every_weight_is_trained(model, stripes(2), "anomaly")
    assert all(weight.grad is None for weight in model["backbone"].parameters())


@pytest.mark.slow
def test_anomalies_are_found_by_a_model_that_has_seen_eight_normal_images():
    model, batch = model_of(), stripes()
    del batch["targets/anomaly/mask"]
    model.freeze("backbone")
    before = {name: value.clone() for name, value in model["backbone"].state_dict().items()}
    checks.learned(model.train(), batch, "anomaly/loss", steps=100)
    assert set(model.summarize(reset=True)) == {"anomaly/AUROC"}
    assert all(torch.equal(value, before[name]) for name, value in model["backbone"].state_dict().items())
    test = stripes(24, anomalous=range(8, 24, 2))
    rows = {name: value[8:] for name, value in test.items()}
    with torch.no_grad():
        values = model.eval()(rows, tags=Stage.TEST.tags)
    summary = model.summarize(reset=True)
    assert set(summary) == {"anomaly/AUROC", "anomaly/PixelAUROC", "anomaly/AUPRO"}
    assert summary["anomaly/AUROC"] > 0.95
    assert summary["anomaly/PixelAUROC"] > 0.85  # of a backbone with random weights
    assert summary["anomaly/AUPRO"] > 0.6
    is_anomalous = rows["targets/anomaly"] == 1
    assert (values["anomaly/score"][is_anomalous] > 0.5).all(), "the threshold separates them, too"


def test_anomalous_and_unlabelled_images_have_no_loss():
    model, batch = model_of().eval(), stripes(4, anomalous=[1])
    alone = labelled(model, checks.rows(batch, torch.tensor([True, False, True, False])))["anomaly/loss"]
    kept = torch.tensor([True, True, True, False])
    values = labelled(model, {**batch, "labelled/anomaly": kept})
    torch.testing.assert_close(values["anomaly/loss"], alone * 2 / 3)  # the mean of three, one of which is 0
    gradient = torch.autograd.grad(values["anomaly/loss"], values["anomaly/logits"])[0]
    assert gradient[[0, 2]].flatten(1).any(dim=1).all()
    assert not gradient[[1, 3]].any()


def test_metrics_are_those_of_the_labelled_rows():
    model, batch = model_of().eval(), stripes(6, anomalous=[1, 2, 5])
    kept = torch.tensor([True, True, False, True, True, True])
    model({**batch, "labelled/anomaly": kept}, tags=Stage.VALIDATION.tags)
    summary = model.summarize(reset=True)
    model(checks.rows(batch, kept), tags=Stage.VALIDATION.tags)
    assert summary == model.summarize(reset=True)
    assert set(summary) == {"anomaly/AUROC", "anomaly/PixelAUROC", "anomaly/AUPRO"}


def test_without_labels_the_loss_is_zero():
    checks.assert_without_labels_the_loss_is_zero(model_of(), stripes(2), "anomaly")


def test_the_loss_is_random_in_training_and_fixed_in_evaluation():
    model, batch = model_of(), stripes(2)
    model.freeze("backbone")
    first, second = (labelled(model, batch)["anomaly/noise"] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    first = labelled(model, batch)["anomaly/noise"]
    torch.manual_seed(5)
    assert torch.equal(labelled(model, batch)["anomaly/noise"], first)
    model.eval()
    assert torch.equal(labelled(model, batch)["anomaly/loss"], labelled(model, batch)["anomaly/loss"])


def test_it_is_stored_and_swapped(tmp_path):
    checks.assert_stored_and_swapped(model_of(), "anomaly", "anomaly/map", tmp_path)


def test_a_trained_head_gets_other_names(tmp_path):
    model = model_of().eval()
    model.save_pretrained(tmp_path / "model")
    with pytest.warns(UserWarning, match=r"\['broken'\]"):
        other = create_model(f"local-dir:{tmp_path / 'model'}", labels=["normal", "broken"], pretrained=True).eval()
    image = {"image": torch.rand(2, 3, 64, 64)}
    torch.testing.assert_close(
        other(image, outputs=["anomaly/map"])["anomaly/map"], model(image, outputs=["anomaly/map"])["anomaly/map"]
    )


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("anomaly", torch.tensor([0, 2]), r"targets/anomaly, row 1: expected classes in \[0, 2\), found \[2\]"),
        ("anomaly", torch.tensor([0.0, 1]), r"targets/anomaly: expected a tensor \(B,\) = \(2,\) of int64"),
        (
            "anomaly/mask",
            torch.full((2, 64, 64), 7),
            r"targets/anomaly/mask, row 0: expected classes in \[0, 2\) or 255, found \[7\]",
        ),
        ("anomaly/mask", torch.zeros(2, 8, 8).long(), r"targets/anomaly/mask: expected a tensor \(B, H, W\)"),
    ],
)
def test_bad_labels_are_refused(name, label, message):
    batch = {**stripes(2), f"targets/{name}": label}
    with pytest.raises(BrickInputError, match=message):
        model_of()(batch, tags=Stage.VALIDATION.tags)


def test_the_result_is_the_class_at_a_threshold_of_one_half():
    task = get_task("anomaly")
    values = {"map": np.array([[0.1, 0.6], [0.2, 0.3], [0.5, 0.1]], dtype=np.float32), "score": np.float32(0.6)}
    assert task.results(values, LABELS) == [{"label": "anomalous", "class": 1, "score": pytest.approx(0.6)}]
    assert task.results({**values, "score": np.float32(0.4)}, LABELS)[0]["label"] == "normal"
    assert task.results(task.select(values, Selection(0.5, topk=1, classes=(1,))), LABELS)
    for selection in (Selection(0.7), Selection(classes=(0,))):
        selected = task.select(values, selection)
        assert task.results(selected, LABELS) == []
        assert (task.mask(task.on_image(selected, resize_geometry((3, 2), (3, 2), "squash"))) == -1).all()
    resized = task.on_image(values, resize_geometry((6, 2), (3, 2), "squash"))
    assert resized["map"].shape == (2, 6), "transposed"
    assert task.mask(resized).tolist() == [[0, 1], [0, 1], [0, 0], [0, 0], [1, 0], [1, 0]]


def test_the_map_is_drawn_where_it_is_high():
    model = model_of()
    map_ = torch.zeros(1, 60, 400)
    map_[0, 20:40, 300:350] = 1
    values = {"image": torch.full((1, 3, 60, 400), 0.5), "anomaly/map": map_, "anomaly/score": torch.tensor([1.0])}
    drawn = np.asarray(model["anomaly/visualization"](values)["anomaly/visualization"][0]).astype(int)
    assert drawn.shape[1] == 400
    assert drawn.shape[0] > 60, "the scale is below"
    assert (drawn[:60] == [128, 128, 128]).all(axis=-1).sum() == 60 * 400 - 20 * 50, "unchanged where it is 0"
    assert (drawn[20:40, 300:350, 0] > drawn[20:40, 300:350, 2] + 50).all(), "red"
    labels = {
        f"anomaly/{name}": value for name, value in get_task("anomaly").labels_as_outputs(torch.tensor([1]), 2).items()
    }
    shown = np.asarray(model["anomaly/visualization"]({**values, **labels})["anomaly/visualization"][0])
    assert (shown[:60] == 128).all()


def test_a_predictor_returns_a_class_and_a_mask_and_draws_the_map(tmp_path):
    prediction = checks.predicted(model_of(), tmp_path)
    (result,) = prediction.results["anomaly"]
    assert result["label"] in LABELS
    mask = prediction.masks["anomaly"]
    assert mask.shape == (120, 400)
    assert mask.max() == int(result["score"] >= 0.5)
    assert prediction.to_json()["anomaly"][0]["segmentation"]["size"] == [120, 400]
    assert prediction.visualization.width == 400
    assert prediction.visualization.height > 120


def test_only_anomalous_images_are_reported_if_asked(tmp_path):
    model = model_of().eval()
    image = np.random.default_rng(0).integers(0, 255, (3, 80, 90, 3), dtype=np.uint8)
    scores = [row.results["anomaly"][0]["score"] for row in Predictor(model).predict(list(image))]
    middle = float(np.median(scores))
    kept = [bool(row.results["anomaly"]) for row in Predictor(model, threshold=middle).predict(list(image))]
    assert kept == [score >= middle for score in scores]


@pytest.mark.slow
def test_the_exported_file_gives_the_same(tmp_path):
    checks.assert_exported(model_of(), tmp_path, "anomaly")
