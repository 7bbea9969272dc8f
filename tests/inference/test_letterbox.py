"""A model that was trained on letterboxed images predicts on such images, and its results are on the original."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from brickyard import BrickCollection, Predictor, Stage, create_model

SIZE = (64, 96)


@pytest.fixture(scope="module")
def model() -> BrickCollection:
    torch.manual_seed(0)
    model = create_model("test_resnet_seg_det_kpt_depth", num_classes={"seg": 5, "det": 3, "kpt": 4}).eval()
    for module in model["det/head"].modules():  # scores that are spread over (0, 1)
        if isinstance(module, torch.nn.Conv2d) and module.out_channels == 3:
            module.bias.data.zero_()
    for head in ("seg", "det", "kpt", "depth"):
        brick = model[f"{head}/head"]
        brick.head = replace(brick.head, image_size=SIZE, resize_mode="letterbox")
    return model


@pytest.mark.parametrize(
    ("size", "content"),  # (width, height) -> (left, top, width, height) in a frame of 96 x 64
    [
        ((120, 60), (0, 8, 96, 48)),
        ((40, 80), (32, 0, 32, 64)),
        ((192, 128), (0, 0, 96, 64)),
        ((30, 10), (0, 16, 96, 32)),
    ],
)
def test_outputs_are_mapped_from_the_content_of_the_frame(size, content, model):
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    left, top, width, height = content
    resampling = Image.Resampling[model["backbone"].provides.input.interpolation.upper()]
    frame = Image.new("RGB", (96, 64), (128, 128, 128))
    frame.paste(image.resize((width, height), resampling), (left, top))
    inputs = {"image": torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None]}
    with torch.inference_mode():
        outputs = model(inputs, tags=Stage.INFERENCE.tags)

    predictor = Predictor(model, device="cpu", threshold=0.0)
    (prediction,) = predictor.predict(pixels, draw=True)
    assert torch.equal(predictor.reader.preprocess(image)[None], inputs["image"])
    mask = outputs["seg/class_prediction"][0, top : top + height, left : left + width].numpy()
    nearest = [
        ((np.arange(side) + 0.5) * len(cells) / side).astype(int)
        for side, cells in zip(size[::-1], (mask, mask[0]), strict=True)
    ]
    assert np.array_equal(prediction.masks["seg"], mask[nearest[0][:, None], nearest[1]])
    scale = np.array([size[0] / width, size[1] / height] * 2)
    boxes = (outputs["det/boxes"][0].numpy() - [left, top, left, top]) * scale
    boxes = np.clip(boxes, 0, [*size, *size])[outputs["det/labels"][0].numpy() >= 0]
    np.testing.assert_allclose([result["box"] for result in prediction.results["det"]], boxes, rtol=1e-4, atol=1e-2)
    points = (outputs["kpt/keypoints"][0].numpy() - [left, top]) * scale[:2]
    found = {result["class"]: (result["x"], result["y"]) for result in prediction.results["kpt"]}
    np.testing.assert_allclose([found[index] for index in range(4)], points, rtol=1e-4, atol=1e-2)
    assert prediction.visualization.size[0] >= size[0]


def test_heads_of_unknown_resize_mode_get_whole_images():
    dense = create_model("tf_efficientnet_lite0_seg", num_classes=2)
    shown = Predictor(dense, device="cpu").reader.preprocess(Image.linear_gradient("L").resize((400, 200)))
    assert (int(shown[0, 0].min()), int(shown[0, -1].max())) == (0, 255)  # nothing is cropped
    plain = create_model("tf_efficientnet_lite0_cls", num_classes=2)
    cropped = Predictor(plain, device="cpu").reader.preprocess(Image.linear_gradient("L").resize((400, 200)))
    assert int(cropped[0, 0].min()) > 5
