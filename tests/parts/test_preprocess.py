import pytest
import torch
from torchvision.transforms import v2

from brickyard import BrickCollection, BrickInputError, BrickNotTrainable, Preprocessor

IMAGENET = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_images_are_normalised_as_by_torchvision_with_imagenets_statistics():
    images = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(Preprocessor()(images), IMAGENET(images))


def test_uint8_is_scaled_first():
    pixels = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8)
    torch.testing.assert_close(Preprocessor()(pixels), IMAGENET(pixels / 255))


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(channels):
    mean, std = [0.1 * (i + 1) for i in range(channels)], [0.2 * (i + 1) for i in range(channels)]
    images = torch.rand(2, channels, 4, 5)
    torch.testing.assert_close(Preprocessor(mean, std)(images), v2.Normalize(mean, std)(images))


def test_the_output_has_the_modules_floating_type():
    assert Preprocessor().half()(torch.rand(1, 3, 2, 2)).dtype == torch.float16
    assert Preprocessor()(torch.rand(1, 3, 2, 2, dtype=torch.float64)).dtype == torch.float32
    assert Preprocessor().double()(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)).dtype == torch.float64


def test_it_has_no_stored_weights():
    assert Preprocessor().state_dict() == {}


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 1, 4, 5), (2, 4, 5, 3)])
def test_another_shape_is_refused_with_both_shapes(shape):
    with pytest.raises(BrickInputError, match=r"\(B, 3, H, W\), found the shape"):
        Preprocessor()(torch.rand(shape))


def test_integers_other_than_uint8_are_refused():
    with pytest.raises(BrickInputError, match=r"float in \[0, 1\] or uint8, found torch.int64"):
        Preprocessor()(torch.zeros(1, 3, 2, 2, dtype=torch.int64))


@pytest.mark.parametrize("value", [255.0, -2.0, float("nan"), float("inf")])
def test_values_outside_the_range_are_refused_with_a_hint(value):
    images = torch.rand(1, 3, 2, 2)
    images[0, 1, 0, 1] = value
    with pytest.raises(BrickInputError, match="Divide by 255"):
        Preprocessor()(images)


def test_the_overshoot_of_a_resize_is_accepted():
    images = v2.functional.resize(
        (torch.rand(1, 3, 8, 8) > 0.5).float(), [32, 32], v2.InterpolationMode.BICUBIC, antialias=False
    )
    images = images.clamp(-0.09, 1.09)
    assert images.max() > 1
    torch.testing.assert_close(Preprocessor()(images), IMAGENET(images))


def test_an_empty_batch_is_accepted():
    assert Preprocessor()(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)


def test_gradients_reach_the_image():
    images = torch.rand(1, 3, 2, 2, requires_grad=True)
    Preprocessor()(images).sum().backward()
    torch.testing.assert_close(images.grad[0, :, 0, 0], 1 / torch.tensor([0.229, 0.224, 0.225]))


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_it_compiles_and_exports_as_one_graph(kind):
    collection = BrickCollection({"preprocessor": BrickNotTrainable(Preprocessor(), ["image"], ["normalized"])})
    images = {"image": torch.zeros(2, 3, 4, 5).to(kind)}
    expected = collection(images)["normalized"]
    compiled = torch.compile(collection, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images)["normalized"], expected)
    for strict in (True, False):
        exported = torch.export.export(collection, (images,), strict=strict).module()
        torch.testing.assert_close(exported(images)["normalized"], expected)
