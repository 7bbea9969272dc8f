"""The README of TorchBricks 0.4 on visualizations, block by block; Pillow's own font stands for the README's file."""

from typing import List  # noqa: UP035 - as the README has it

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from brickyard import (
    BrickCollection,
    BrickPerImageVisualization,
    float2uint8,
    function_composer,
    torch_to_numpy,
    unpack_batched_tensor_to_pillow_images,
)


class VisualizeImageClassification:
    def __init__(self, class_names: list, font_size: int = 50):
        self.class_names = class_names
        self.font = ImageFont.load_default(font_size)

    def __call__(self, input_image: np.ndarray, target_prediction: np.ndarray) -> Image.Image:
        """Draws image classification results"""
        assert input_image.ndim == 3  # Converted to single image channel last numpy array [H, W, C]
        image = Image.fromarray(float2uint8(input_image))
        draw = ImageDraw.Draw(image)
        draw.text((25, 25), text=self.class_names[target_prediction[0]], font=self.font)
        return image


def written(text: str) -> np.ndarray:
    image = Image.new("RGB", (200, 100))
    ImageDraw.Draw(image).text((25, 25), text=text, font=ImageFont.load_default(50))
    return np.asarray(image)


def test_visualizations():
    bricks = {
        "visualizer": BrickPerImageVisualization(
            callable=VisualizeImageClassification(class_names=["cat", "dog"]),
            input_names=["input_image", "target"],
            output_names=["visualization"],
        )
    }

    batched_inputs = {"input_image": torch.zeros((2, 3, 100, 200)), "target": torch.tensor([0, 1], dtype=torch.int64)}
    brick_collection = BrickCollection(bricks)
    outputs = brick_collection(named_inputs=batched_inputs)

    for picture, text in zip(outputs["visualization"], ["cat", "dog"], strict=True):
        np.testing.assert_array_equal(np.asarray(picture), written(text))


class BrickVisualizeImageClassification(BrickPerImageVisualization):
    def __init__(self, input_image: str, target_name: str, class_names: List[str], output_name: str):  # noqa: UP006
        self.class_names = class_names
        self.font = ImageFont.load_default(50)
        super().__init__(
            callable=self.visualize_image_classification_pillow,
            input_names=[input_image, target_name],
            output_names=[output_name],
            unpack_functions_for_type={torch.Tensor: unpack_batched_tensor_to_pillow_images},
            unpack_functions_for_input_name={target_name: function_composer(torch_to_numpy, list)},
        )

    def visualize_image_classification_pillow(self, image: Image.Image, target_prediction: np.int64) -> Image.Image:
        """Draws image classification results"""
        draw = ImageDraw.Draw(image)

        draw.text((25, 25), text=self.class_names[target_prediction], font=self.font)
        return image


def test_visualizations_in_a_brick_of_ones_own():
    visualizer = BrickVisualizeImageClassification(
        input_image="input_image",
        target_name="target",
        class_names=["cat", "dog"],
        output_name="VisualizeImageClassification",
    )
    batched_inputs = {"input_image": torch.zeros((2, 3, 100, 200)), "target": torch.tensor([0, 1], dtype=torch.int64)}
    for outputs in (visualizer(batched_inputs), BrickCollection({"visualizer": visualizer})(batched_inputs)):
        for picture, text in zip(outputs["VisualizeImageClassification"], ["cat", "dog"], strict=True):
            np.testing.assert_array_equal(np.asarray(picture), written(text))
