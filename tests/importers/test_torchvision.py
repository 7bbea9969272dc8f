import functools
import re
import warnings

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.misc import FrozenBatchNorm2d

from brickyard import BrickCollection, BrickMismatchError, create_model, export_onnx, import_model
from brickyard.importers.checkpoint import Checkpoint
from brickyard.importers.torchvision import ENTRIES
from tests.private_names import overwrite_eps

IMPORTS = {entry.source: entry for entry in ENTRIES}
DETECTORS = [name for name in IMPORTS if "det" in IMPORTS[name].tasks]
SEGMENTERS = [name for name in IMPORTS if "seg" in IMPORTS[name].tasks]
SIZES = [(64, 64), (97, 130), (75, 41)]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
CATEGORIES = torchvision.models.detection.FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
UNUSED = [index for index, name in enumerate(CATEGORIES) if name in ("__background__", "N/A")]


def image_of(size, seed=0):
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))


@functools.cache
def reference(source):
    """torchvision's model with random weights, whose batch norm has statistics other than 0 and 1."""
    torch.manual_seed(0)
    name = source.partition(":")[2]
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    if name in ("fcos_resnet50_fpn", "retinanet_resnet50_fpn"):
        freeze_norms(model.backbone)
    if name == "retinanet_resnet50_fpn":
        overwrite_eps(model, 0.0)  # as for its published weights
        for module in model.head.modules():  # without norms, the scores would be nearly equal
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
    if source in DETECTORS:
        classifier = model.head.classification_head.cls_logits
        nn.init.normal_(classifier.weight, std=0.02)
        with torch.no_grad():  # scores around the thresholds; the outputs without a class of COCO are off
            bias = classifier.bias.view(-1, len(CATEGORIES))
            bias.fill_(-1.0)
            bias[:, UNUSED] = -40.0
        nn.init.normal_(model.head.regression_head.bbox_reg.weight, std=0.01)  # boxes of the size of the image
    return model.eval()


def freeze_norms(module):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features))
        freeze_norms(child)


def detections_of(model, image):
    """The detections of torchvision on an image as it is, without a resize or padding."""
    with torch.no_grad():
        maps = list(model.backbone((image - MEAN) / STD).values())
        outputs = model.head(maps)
        anchors = model.anchor_generator(ImageList(image, [tuple(image.shape[-2:])]), maps)
        counts = [each.shape[-2] * each.shape[-1] for each in maps]
        per_cell = model.anchor_generator.num_anchors_per_location()[0]
        counts = [count * per_cell for count in counts]
        split = {key: list(value.split(counts, dim=1)) for key, value in outputs.items()}
        (found,) = model.postprocess_detections(
            split, [list(each.split(counts)) for each in anchors], [tuple(image.shape[-2:])]
        )
    return found


def logits_of(model, image):
    with torch.no_grad():
        return model((image - MEAN) / STD)["out"]


def check_detections(source, model, run, size):
    theirs = detections_of(reference(source), image_of(size))
    ours = run(model, image_of(size))
    count = len(theirs["scores"])
    assert count > 5
    assert (ours["det/labels"][0] >= 0).sum() == count
    torch.testing.assert_close(ours["det/scores"][0, :count], theirs["scores"], rtol=1e-5, atol=1e-5)
    labels = model["det/head"].head.labels
    ids = torch.tensor([CATEGORIES.index(labels[index]) for index in ours["det/labels"][0, :count]])
    # Scores that differ by rounding may be in another order.
    is_same = (ids[:, None] == theirs["labels"]) & (
        (ours["det/scores"][0, :count, None] - theirs["scores"]).abs() < 1e-5
    )
    is_same &= torch.isclose(ours["det/boxes"][0, :count, None], theirs["boxes"], rtol=1e-5, atol=1e-3).all(dim=-1)
    assert is_same.any(dim=0).all()
    assert is_same.any(dim=1).all()


def run(model, image):
    with torch.no_grad():
        return model.eval()({"image": image}, tags={"MODEL", "INFERENCE"})


@pytest.mark.parametrize("source", DETECTORS)
def test_detections_are_those_of_torchvision_before_and_after_a_save(source, tmp_path):
    model = import_model(source, weights=reference(source).state_dict())
    model.save_pretrained(tmp_path / "saved")
    loaded = BrickCollection.from_pretrained(tmp_path / "saved")
    for size in SIZES:
        check_detections(source, model, run, size)
        check_detections(source, loaded, run, size)


@pytest.mark.parametrize("source", SEGMENTERS)
def test_logits_are_those_of_torchvision_before_and_after_a_save(source, tmp_path):
    state = reference(source).state_dict()
    published = torchvision.models.get_model(
        source.partition(":")[2], weights=None, weights_backbone=None, aux_loss=True
    )
    state = {**{key: value for key, value in published.state_dict().items() if key.startswith("aux")}, **state}
    model = import_model(source, weights=state)
    model.save_pretrained(tmp_path / "saved")
    loaded = BrickCollection.from_pretrained(tmp_path / "saved")
    for size in SIZES:
        theirs = logits_of(reference(source), image_of(size))
        for each in (model, loaded):
            torch.testing.assert_close(run(each, image_of(size))["seg/logits"], theirs, rtol=1e-5, atol=1e-5)


def test_an_old_checkpoint_of_retinanet_has_its_names_of_before():
    source = "torchvision:retinanet_resnet50_fpn"
    new = reference(source).state_dict()
    old = {}
    for key, tensor in new.items():
        name = re.sub(r"(_blocks\.\d+)\.0\.", r"\1.", key)
        old[re.sub(r"\.conv\.(\d)\.0\.", lambda match: f".conv.{2 * int(match[1])}.", name)] = tensor
    assert old.keys() != new.keys()
    reference(source).load_state_dict(old.copy())  # torchvision takes these names, too
    left, right = import_model(source, weights=old), import_model(source, weights=new)
    for key, tensor in right.state_dict().items():
        assert torch.equal(left.state_dict()[key], tensor)


@pytest.mark.parametrize("source", IMPORTS)
def test_labels_metrics_licence_and_address_are_those_of_torchvision(source):
    entry = IMPORTS[source]
    weights = torchvision.models.get_model_weights(source.partition(":")[2]).DEFAULT
    (labels,) = entry.labels.values()
    assert len(labels) == (80 if "det" in entry.tasks else 21)
    assert [*labels] == [name for name in weights.meta["categories"] if len(labels) == 21 or name in labels]
    assert not set(labels) & {"N/A"}
    assert (entry.url, entry.licence) == (weights.url, "bsd-3-clause")
    (stated,) = weights.meta["_metrics"].values()
    assert [list(values.values()) for values in entry.metrics.values()] == [list(stated.values())]
    assert entry.file_name.endswith(f"-{entry.hash_prefix}.pth")


@pytest.mark.slow
@pytest.mark.parametrize("source", IMPORTS)
def test_an_exported_model_is_that_of_torchvision(source, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    size = (64, 96)
    model = import_model(source, weights=reference(source).state_dict()).eval()
    export_onnx(model, tmp_path / "model.onnx", image_size=size)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    names = [each.name for each in session.get_outputs()]

    def run_file(_, image):
        values = session.run(None, {"image": image.numpy()})
        return {name: torch.from_numpy(each) for name, each in zip(names, values, strict=True)}

    if source in DETECTORS:
        check_detections(source, model, run_file, size)
    else:
        logits = logits_of(reference(source), image_of(size))
        found = run_file(model, image_of(size))["seg/class_prediction"]
        assert found.shape == (1, *size)
        # Classes may only differ where two logits do not.
        chosen = logits.gather(1, found[:, None])
        torch.testing.assert_close(chosen, logits.amax(dim=1, keepdim=True), rtol=1e-5, atol=1e-5)


def imported_as(name, source, monkeypatch, **changes):
    """`create_model(name, pretrained=True)` where the published weights are random ones of torchvision's model."""
    checkpoint = Checkpoint(dict(reference(source).state_dict()), "the checkpoint", None, is_published=True)
    monkeypatch.setattr("brickyard.importers.importing.open_checkpoint", lambda *_: checkpoint)
    monkeypatch.setattr("brickyard.create._on_hub", lambda *_: None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = create_model(name, pretrained=True, **changes)
    return model, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("source", DETECTORS)
def test_an_imported_detector_of_other_classes_keeps_all_but_their_rows(source, monkeypatch):
    entry = IMPORTS[source]
    model, messages = imported_as(entry.name, source, monkeypatch, num_classes=3)
    assert messages == ["'det/head' starts with fresh weights for the classes ['0', '1', '2']."]
    state, theirs = model["det/head"].model.state_dict(), reference(source).state_dict()
    kept = {key for key in state if "cls_logits" not in key}
    assert kept
    assert all(torch.equal(state[key], theirs[key.replace("neck.fpn.", "backbone.fpn.")]) for key in kept)
    image = image_of((75, 41))
    outputs = run(model, image)
    expected = reference(source).head(list(reference(source).backbone((image - MEAN) / STD).values()))
    torch.testing.assert_close(outputs["det/regression"], expected["bbox_regression"], rtol=1e-4, atol=1e-4)
    assert outputs["det/logits"].shape == (*expected["cls_logits"].shape[:2], 3)
    whole = import_model(source, weights=reference(source).state_dict())
    assert model["det/decode"].model.count == whole["det/decode"].model.count
    assert torch.equal(outputs["det/anchors"], run(whole, image)["det/anchors"])
    assert model["det/head"].head.image_size == (1024, 1024)
    assert model["det/head"].metadata["licence"] == "bsd-3-clause"
    assert "metrics" not in model["det/head"].metadata
    boxes = [{"boxes": torch.tensor([[2.0, 3.0, 30.0, 40.0]]), "labels": torch.tensor([2])}]
    batch = {"image": image, "targets/det": boxes}
    loss = model(batch, tags={"MODEL", "LOSS"})["det/loss"]
    loss.backward()
    assert loss.isfinite()
    assert model["det/head"].model.head.classification_head.cls_logits.weight.grad.abs().sum() > 0


def test_the_classes_that_coco_has_keep_their_rows(monkeypatch):
    source = "torchvision:fcos_resnet50_fpn"
    labels = ["mine", "dog", "person"]
    model, messages = imported_as("resnet50_det.tv_coco", source, monkeypatch, labels=labels)
    assert messages == ["'det/head' starts with fresh weights for the classes ['mine']."]
    whole = import_model(source, weights=reference(source).state_dict())
    before, after = (run(each, image_of((75, 41)))["det/logits"] for each in (whole, model))
    names = whole["det/head"].head.labels
    torch.testing.assert_close(after[..., 1:], before[..., [names.index("dog"), names.index("person")]])


def test_a_segmentation_import_takes_other_channels_and_keeps_its_stride(monkeypatch):
    source = "torchvision:fcn_resnet50"
    model, messages = imported_as("resnet50_seg-fcn.tv_coco_voc", source, monkeypatch, in_chans=1, num_classes=2)
    assert messages == ["'seg/head' starts with fresh weights for the classes ['0', '1']."]
    assert torch.equal(model["seg/head"].model[0].weight, reference(source).classifier[0].weight)
    assert model["backbone"].provides.features.strides[-1] == 8
    assert model["backbone"].provides.input.size == (520, 520)
    assert run(model, torch.rand(1, 1, 40, 56))["seg/logits"].shape == (1, 2, 40, 56)


def test_a_head_goes_onto_the_backbone_of_another_import_if_the_weights_are_the_same(tmp_path):
    fcn, deeplab = (reference(f"torchvision:{name}_resnet50").state_dict() for name in ("fcn", "deeplabv3"))
    on_backbone_of_fcn = {key: fcn.get(key, tensor) for key, tensor in deeplab.items()} | {
        key: tensor for key, tensor in deeplab.items() if key.startswith("classifier.")
    }
    for name, state in {"fcn": fcn, "deeplabv3": on_backbone_of_fcn}.items():
        import_model(f"torchvision:{name}_resnet50", weights=state).save_pretrained(tmp_path / name)
    detector = "torchvision:fcos_resnet50_fpn"
    import_model(detector, weights=reference(detector).state_dict()).save_pretrained(tmp_path / "det")
    import_model("torchvision:deeplabv3_resnet50", weights=deeplab).save_pretrained(tmp_path / "other")
    model = BrickCollection.from_pretrained(tmp_path / "fcn")
    before = run(model, image_of((64, 64)))
    model.swap("more", f"{tmp_path}/deeplabv3/seg")
    outputs = run(model, image_of((64, 64)))
    alone = run(BrickCollection.from_pretrained(tmp_path / "deeplabv3"), image_of((64, 64)))
    assert torch.equal(outputs["more/logits"], alone["seg/logits"])
    assert torch.equal(outputs["seg/logits"], before["seg/logits"])
    with pytest.raises(BrickMismatchError, match="weights of the backbone: expected sha256"):
        model.swap("more", f"{tmp_path}/other/seg")
    with pytest.raises(BrickMismatchError, match=r"strides of the features: expected \[2, 4, 8, 16, 32\]"):
        model.swap("det", f"{tmp_path}/det/det", check="shape")
