import functools
import re

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.misc import FrozenBatchNorm2d

from brickyard import BrickCollection, export_onnx, import_model
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
        with torch.no_grad():
            theirs = reference(source)((image_of(size) - MEAN) / STD)["out"]
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
@pytest.mark.parametrize("source", ["torchvision:fcos_resnet50_fpn", "torchvision:retinanet_resnet50_fpn_v2"])
def test_an_exported_detector_is_that_of_torchvision(source, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = import_model(source, weights=reference(source).state_dict()).eval()
    export_onnx(model, tmp_path / "model.onnx", image_size=(64, 96))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    names = [each.name for each in session.get_outputs()]

    def run_file(_, image):
        return {
            name: torch.from_numpy(each)
            for name, each in zip(names, session.run(None, {"image": image.numpy()}), strict=True)
        }

    check_detections(source, model, run_file, (64, 96))
