"""Batches and images at the edge of what a model takes: none, tiny ones, colour for one channel."""

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2.functional import pil_to_tensor, rgb_to_grayscale

from brickyard import BrickCollection, BrickInputError, BrickTrainable, Stage, create_model

MODELS = [
    "test_resnet_cls_seg_kpt_emb_depth", "test_vit_cls", "test_vit_cls-attention", "test_convnext_seg-unet",
    "test_resnet_fomo_anomaly_ocr",
    "test_resnet_det-fcos", "test_resnet_det-retinanet", "test_resnet_det-ssdlite", "test_resnet_det-centernet",
    "test_resnet_inst_pose-masks",
]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_batch_gives_empty_outputs_of_the_shapes_of_others(name):
    model = create_model(name).eval()
    size = model["backbone"].provides.input.size
    with torch.no_grad():
        empty = model({"image": torch.rand(0, 3, *size)}, tags=Stage.INFERENCE.tags, return_inputs=False)
        other = model({"image": torch.rand(2, 3, *size)}, tags=Stage.INFERENCE.tags, return_inputs=False)
    assert empty.keys() == other.keys()
    for key, value in empty.items():
        if isinstance(value, torch.Tensor):
            assert value.shape == (0, *other[key].shape[1:]), key
            assert value.dtype == other[key].dtype


@pytest.mark.parametrize("size", [(7, 7), (31, 64), (64, 16)])
def test_an_image_smaller_than_the_deepest_stride_works_or_is_told(size):
    image = {"image": torch.rand(2, 3, *size)}
    logits = create_model("test_resnet_cls_seg").eval()(image, outputs=["seg/logits"])["seg/logits"]
    assert logits.shape[-2:] == size
    with pytest.raises(BrickInputError, match=rf"brick 'backbone': expected .*32x32 pixels.*found {size[0]}x{size[1]}"):
        create_model("test_convnext_cls").eval()(image, outputs=["cls/logits"])


def test_batch_norm_on_a_single_value_names_the_brick_and_the_image():
    model = create_model("test_resnet_cls").train()
    image = {"image": torch.rand(1, 3, 32, 32)}
    with pytest.raises(BrickInputError, match=r"brick 'backbone': .*BatchNorm.*image \(1, 3, 32, 32\)") as caught:
        model(image, tags="MODEL")
    assert "In brick 'backbone'" in caught.value.__notes__[0]
    model.freeze("backbone")
    model(image, tags="MODEL")
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    collection = BrickCollection({"head": {"pooled": BrickTrainable(pooled, ["image"], ["./pooled"])}})
    with pytest.raises(BrickInputError, match=r"brick 'head/pooled': .*BatchNorm.*image \(1, 3, 32, 32\)"):
        collection(image)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_model_of_one_channel_takes_colour_images_as_pillow_converts_them(dtype):
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    model = create_model("test_resnet_cls", in_chans=1, num_classes=2).eval()
    grey = torch.stack([pil_to_tensor(Image.fromarray(p.permute(1, 2, 0).numpy()).convert("L")) for p in pixels]) / 255
    image = pixels if dtype == torch.uint8 else pixels / 255
    with torch.no_grad():
        found = model({"image": image}, outputs=["normalized"])["normalized"]
        expected = model({"image": grey}, outputs=["normalized"])["normalized"]
        exact = model({"image": rgb_to_grayscale(pixels / 255)}, outputs=["normalized"])["normalized"]
    assert (found - expected).abs().max() < 1 / 255 / 0.2
    torch.testing.assert_close(found, exact, atol=2e-3, rtol=0)
    batch = {"image": image, "targets/cls": torch.tensor([0, 1])}
    model.extract_losses(model.train()(batch, tags=Stage.TRAIN.tags))["cls/loss"].backward()
    with pytest.raises(BrickInputError, match="1, H, W"):
        model({"image": torch.rand(2, 2, 64, 64)}, outputs=["normalized"])
