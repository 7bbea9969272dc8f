import numpy as np
import pytest
import torch

from brickyard import BrickInputError, EncodeText, Stage, create_model
from brickyard.core.specs import HeadInfo
from brickyard.tasks.registry import get_task
from brickyard.tasks.selection import Selection
from tests.tasks import checks

ALPHABET = ["r", "g", "b"]
TEXTS = ["rgb", "r", "", "bbg", "grrb", "bg", "rb", "gg"]


def bars(texts=TEXTS, size=(32, 64)):
    """A bar of 8 x 16 pixels for each character, in its colour, from left to right at changing heights, on noise."""
    generator = torch.Generator().manual_seed(0)
    image = 0.2 * torch.rand(len(texts), 3, *size, generator=generator)
    for row, text in enumerate(texts):
        left, top = 2 + row % 5, 3 + 2 * (row % 6)
        for index, character in enumerate(text):
            x = left + 14 * index
            image[row, ALPHABET.index(character), top : top + 16, x : x + 8] = 1
    return {"image": image, "targets/ocr": list(texts)}


def model_of(labels=ALPHABET):
    torch.manual_seed(0)
    return create_model("test_resnet_ocr", labels=labels)


def test_the_default_are_digits_and_lower_case_letters():
    model = create_model("test_resnet_ocr")
    assert model["ocr/head"].head == HeadInfo("ocr", "svtr", tuple("0123456789abcdefghijklmnopqrstuvwxyz"))
    assert model.required_inputs(tags=Stage.TRAIN.tags) == ["image", "targets/ocr"]
    more = create_model("test_resnet_ocr", num_classes=200)["ocr/head"].head.labels
    assert len(set(more)) == 200
    assert all(len(character) == 1 for character in more)


@pytest.mark.parametrize(("labels", "found"), [(["a", "bc"], "'bc'"), (["a", "e\u0301"], "'e\u0301'")])
def test_labels_that_are_no_characters_are_refused(labels, found):
    with pytest.raises(BrickInputError, match=f"labels of 'ocr': expected characters, of length 1, found {found}"):
        model_of(labels)


@pytest.mark.parametrize(
    ("backbone", "size"), [("test_resnet", (97, 131)), ("test_convnext", (97, 131)), ("test_vit", (160, 160))]
)
def test_text_has_a_column_for_four_pixels_on_any_backbone(backbone, size):
    model = create_model(f"{backbone}_ocr", num_classes=10).eval()
    values = model({"image": torch.rand(2, 3, *size)}, tags=Stage.INFERENCE.tags)
    columns = -(-size[1] // 4)
    assert values["ocr/logits"].shape[0] == 2
    assert abs(values["ocr/logits"].shape[1] - columns) <= 1
    assert values["ocr/logits"].shape[2] == 11
    assert values["ocr/text"].shape == values["ocr/logits"].shape[:2]
    assert ((values["ocr/text"] >= -1) & (values["ocr/text"] < 10)).all()
    assert ((values["ocr/score"] >= 0) & (values["ocr/score"] <= 1)).all()


def test_the_head_is_small():
    model = create_model("tf_efficientnet_lite0_ocr", num_classes=10)
    assert sum(weight.numel() * 4 for weight in model["ocr"].parameters()) < 500_000  # bytes


def test_every_weight_of_the_head_is_trained():
    checks.assert_every_weight_is_trained(model_of(), bars(["rgb", "bb"]), "ocr")


@pytest.mark.slow
def test_eight_images_are_learned():
    model, batch = model_of(), bars()
    checks.learned(model, batch, "ocr/loss", steps=120)
    summary = model.summarize(reset=True)
    assert set(summary) == {"ocr/CharErrorRate", "ocr/ExactMatch"}
    assert summary["ocr/ExactMatch"] > 0.95
    assert summary["ocr/CharErrorRate"] < 0.05
    values = model({"image": batch["image"]}, tags=Stage.INFERENCE.tags)
    read = ["".join(ALPHABET[index] for index in row if index >= 0) for row in values["ocr/text"].tolist()]
    assert read == TEXTS


def test_unlabelled_rows_do_not_matter():
    batch = bars(["rgb", "r", "bb"])
    checks.assert_unlabelled_rows_do_not_matter(model_of(), batch, "ocr", nonsense="no such characters")


def test_without_labels_the_loss_is_zero():
    checks.assert_without_labels_the_loss_is_zero(model_of(), bars(["rgb", "b"]), "ocr")


def test_it_is_stored_and_swapped(tmp_path):
    checks.assert_stored_and_swapped(model_of(), "ocr", "ocr/logits", tmp_path)


def test_trained_characters_keep_their_weights_in_another_alphabet(tmp_path):
    model = model_of().eval()
    model.save_pretrained(tmp_path / "model")
    with pytest.warns(UserWarning, match=r"fresh weights for the classes \['x'\]"):
        other = create_model(f"local-dir:{tmp_path / 'model'}", labels=["b", "x", "r"], pretrained=True).eval()
    image = {"image": torch.rand(2, 3, 32, 64)}
    before, after = (each(image, outputs=["ocr/logits"])["ocr/logits"] for each in (model, other))
    torch.testing.assert_close(after[..., [0, 1, 3]], before[..., [0, 3, 1]])


def test_a_space_is_a_character():
    model = model_of(["a", " ", "b"])
    batch = {"image": torch.rand(1, 3, 32, 64), "targets/ocr": ["a b"]}
    assert model(batch, tags=checks.TRAINED)["ocr/target_text"][0, :4].tolist() == [0, 1, 2, -1]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["r", "R"], r"row 1: expected characters of the alphabet of 3, 'rgb', found 'R' in 'R'"),
        (["rgb" * 9, "r"], r"row 0: expected a text that fits into 16 columns, .*27 characters, 0 of them like"),
        (["r"], r"targets/ocr: expected a list of B = 2 strings"),
        ([1, 2], r"targets/ocr: expected a list of B = 2 strings"),
        (torch.tensor([[0, 3], [1, -1]]), r"targets/ocr, row 0: expected -1 to 2, found \[3\]"),
    ],
)
def test_bad_texts_are_refused_by_row(texts, message):
    batch = bars(["r", "g"])
    with pytest.raises(BrickInputError, match=message):
        model_of()({**batch, "targets/ocr": texts}, tags=checks.TRAINED)


def test_encoded_texts_give_the_same_loss():
    model, batch = model_of().eval(), bars()
    expected = model(batch, tags=checks.TRAINED)["ocr/loss"]
    rows = EncodeText(ALPHABET)(TEXTS, torch.zeros(8, 16, 4))
    torch.testing.assert_close(model({**batch, "targets/ocr": rows}, tags=checks.TRAINED)["ocr/loss"], expected)


def test_the_result_is_the_text_and_its_score():
    task = get_task("ocr")
    values = {"text": np.array([2, 0, 0, -1, -1]), "score": np.float32(0.75)}
    assert task.results(values, ALPHABET) == [{"label": "brr", "score": 0.75}]
    assert task.results(task.select(values, Selection(0.7, topk=1, classes=())), ALPHABET)
    assert task.results(task.select(values, Selection(0.8)), ALPHABET) == []
    assert task.results({"text": np.array([-1]), "score": np.float32(1)}, ALPHABET) == [{"label": "", "score": 1.0}]


def test_the_text_is_written_below_the_image():
    model = model_of()
    image = torch.zeros(2, 3, 40, 200)
    text = torch.tensor([[0, 1, 2], [-1, -1, -1]])
    values = {"image": image, "ocr/text": text, "ocr/score": torch.tensor([0.9, 0.8])}
    first, second = model["ocr/visualization"](values)["ocr/visualization"]
    labels = {"image": image, **{f"ocr/{k}": v for k, v in get_task("ocr").labels_as_outputs(["rgb", ""], 3).items()}}
    drawn = model["ocr/visualization"](labels)["ocr/visualization"]
    for shown in (first, second, *drawn):
        assert shown.size[0] == 320
        assert shown.size[1] > 40
        assert not np.asarray(shown)[:40, :200].any(), "the image is unchanged"
    left = [np.asarray(each)[40:, :200] for each in (first, second, *drawn)]
    assert not np.array_equal(left[0], left[1])
    assert np.array_equal(left[0], left[2])
    assert np.array_equal(left[1], left[3])


def test_a_predictor_returns_a_text_and_draws_it(tmp_path):
    prediction = checks.predicted(model_of(), tmp_path)
    (result,) = prediction.results["ocr"]
    assert set(result["label"]) <= set(ALPHABET)
    assert 0 <= result["score"] <= 1
    assert prediction.visualization.width == 400
    assert prediction.visualization.height > 120


@pytest.mark.slow
def test_the_exported_file_gives_the_same(tmp_path):
    checks.assert_exported(model_of(), tmp_path, "ocr")
