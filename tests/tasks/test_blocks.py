"""The heads that read transformer blocks, of every task."""

import dataclasses

import pytest
import torch

from brickyard import BrickCollection, BrickMismatchError, Stage, create_model, fits, inspect_brick
from brickyard.parts.backbones import timm_backbone, timm_spec
from brickyard.recipe.build import head_bricks
from brickyard.recipe.recipe import HeadRecipe
from tests.tasks import checks

HEADS = ["cls-linear1", "cls-linear4", "seg-linear", "seg-linear4", "depth-linear", "depth-linear4", "depth-dpt"]


def batch_of(head, count=4, size=64):
    """Images whose classes or depths are plain to see; classes change at the border of two patches."""
    torch.manual_seed(0)
    task = head.partition("-")[0]
    columns = torch.tensor([0, 1, 2, 0]).repeat_interleave(16)[:size] if task == "seg" else torch.linspace(1, 8, size)
    target = torch.tensor([0, 1, 2, 0])[:count] if task == "cls" else columns.expand(count, size, size).contiguous()
    values = target.view(count, 1, 1).expand(count, size, size) if task == "cls" else target
    image = (values / values.max()).float()[:, None].repeat(1, 3, 1, 1)
    return {"image": image + 0.05 * torch.rand(image.shape), f"targets/{task}": target}


def model_of(heads, size=64, **options):
    torch.manual_seed(0)
    return create_model(f"test_vit_{heads}", img_size=size, **options)


def classes_of(head):
    return {} if head.startswith("depth") else {"num_classes": 3}


@pytest.mark.parametrize("head", HEADS)
def test_every_weight_of_the_head_is_trained(head):
    model = model_of(head, **classes_of(head))
    checks.assert_every_weight_is_trained(model, batch_of(head, 2), head.partition("-")[0])


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_four_images_are_learned(head):
    task = head.partition("-")[0]
    if head == "depth-dpt":  # no norms, so it takes small steps
        count, size, options = 2, 32, {"steps": 50, "lr": 1e-4, "clip": 5.0}
    else:
        count, size, options = 4, 64, {"steps": 60}
    model, batch = model_of(head, size, **classes_of(head)), batch_of(head, count, size)
    before, after = checks.learned(model, batch, f"{task}/loss", **options)
    assert after < 0.25 * before
    summary = model.summarize(reset=True)
    name = {"cls": "Accuracy", "seg": "MeanIoU", "depth": "Delta1"}[task]
    value = next(value for key, value in summary.items() if key.endswith(name))
    assert value > (0.6 if head == "depth-dpt" else 0.95)


@pytest.mark.parametrize("head", ["depth-linear", "depth-dpt"])
def test_unknown_depth_does_not_matter(head):
    model, batch = model_of(head), batch_of(head, 3)
    checks.assert_unlabelled_rows_do_not_matter(model, batch, "depth", torch.nan)
    checks.assert_without_labels_the_loss_is_zero(model, batch, "depth")


@pytest.mark.parametrize("head", ["depth-linear4", "depth-dpt"])
def test_depth_is_resized_and_its_logarithm_is_for_the_loss_alone(head):
    model = model_of(head).eval()
    values = model(batch_of(head), tags=Stage.INFERENCE.tags)
    assert values["depth/depth"].shape == (4, 1, 64, 64)
    assert "depth/log_depth" not in values
    expected = torch.nn.functional.interpolate(values["depth/coarse"], (64, 64), mode="bilinear")
    torch.testing.assert_close(values["depth/depth"], expected)
    assert values["depth/depth"].min() >= 0.001
    assert values["depth/depth"].max() <= 10


def test_the_heads_of_a_model_share_one_pass_of_one_backbone():
    model = model_of("cls-linear4_depth-dpt_seg-linear4", num_classes={"cls": 3, "seg": 3}).eval()
    backbone, passes = model["backbone"].model, []
    backbone.patch_embed.register_forward_hook(lambda *_: passes.append(1))
    values = model({"image": torch.rand(2, 3, 64, 64)}, tags=Stage.INFERENCE.tags)
    assert len(passes) == 1
    pairs = backbone.forward_intermediates(values["normalized"], norm=True, return_prefix_tokens=True)[1]
    read = [map_ is not None for map_ in values["normed_features"]]
    assert read == [False, False, True, True, True, True]
    logits = model["cls/head"].model([prefix[:, 0] for _, prefix in pairs[-4:]], pairs[-1][0])
    torch.testing.assert_close(values["cls/logits"], logits)
    torch.testing.assert_close(values["seg/coarse"], model["seg/head"].model([map_ for map_, _ in pairs[-4:]]))
    pairs = backbone.forward_intermediates(values["normalized"], return_prefix_tokens=True)[1]
    chosen = [pairs[index] for index in (0, 2, 3, 5)]
    depth = model["depth/head"].model([map_ for map_, _ in chosen], [prefix[:, 0] for _, prefix in chosen])
    torch.testing.assert_close(values["depth/coarse"], depth)


def test_a_model_whose_heads_do_not_read_blocks_computes_nothing_more():
    model = create_model("test_vit_cls", num_classes=2, img_size=64).eval()
    norms = []
    model["backbone"].model.norm.register_forward_hook(lambda *_: norms.append(1))
    values = model({"image": torch.rand(1, 3, 64, 64)}, tags=Stage.INFERENCE.tags)
    assert len(norms) == 1
    assert not {"normed_features", "class_tokens", "normed_class_tokens"} & set(values)
    values = model({"image": torch.rand(1, 3, 64, 64)}, outputs="normed_features")
    assert [map_.shape for map_ in values["normed_features"]] == [(1, 64, 4, 4)] * 6


def test_an_empty_batch_has_empty_values_of_blocks():
    model = model_of("cls-linear1", num_classes=3).eval()
    values = model({"image": torch.rand(0, 3, 64, 64)}, outputs=("cls/logits", "class_tokens"))
    assert values["cls/logits"].shape == (0, 3)
    assert {token.shape for token in values["class_tokens"]} == {(0, 64)}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext"])
def test_a_backbone_without_transformer_blocks_is_refused(backbone, head):
    with pytest.raises(BrickMismatchError, match="expected a backbone of transformer blocks"):
        create_model(f"{backbone}_{head}")


@pytest.mark.parametrize("head", ["cls-linear1", "depth-linear", "depth-dpt"])
def test_a_backbone_without_a_class_token_is_refused_by_heads_that_read_it(head):
    with pytest.raises(BrickMismatchError, match="no class token"):
        create_model(f"test_vit2_{head}")
    assert create_model("test_vit2_seg-linear", num_classes=2)["seg/head"].reads[0].name == "normed_features"


@pytest.mark.parametrize("head", ["cls-linear4", "seg-linear4", "depth-linear4", "depth-dpt"])
def test_a_backbone_with_too_few_blocks_is_refused(head):
    spec = timm_spec(timm_backbone("test_vit"))
    few = dataclasses.replace(spec.features, channels=(64,) * 3, strides=(16,) * 3)
    task, _, variant = head.partition("-")
    with pytest.raises(BrickMismatchError, match="expected 4 transformer blocks or more, found 3"):
        head_bricks(dataclasses.replace(spec, features=few), HeadRecipe(task, task, variant))


@pytest.mark.parametrize(
    ("depth", "blocks"), [(12, "2,5,8,11"), (24, "4,11,17,23"), (40, "9,19,29,39"), (4, "0,1,2,3"), (6, "0,2,3,5")]
)
def test_dpt_reads_the_blocks_that_dinov2_chose(depth, blocks):
    spec = timm_spec(timm_backbone("test_vit"))
    features = dataclasses.replace(spec.features, channels=(64,) * depth, strides=(16,) * depth)
    bricks = head_bricks(dataclasses.replace(spec, features=features), HeadRecipe("depth", "depth", "dpt"))
    assert bricks["head"].input_names == [f"features[{blocks}]", f"class_tokens[{blocks}]"]


def test_heads_are_stored_and_swapped_where_the_backbone_has_what_they_read(tmp_path):
    model = model_of("depth-dpt_seg-linear4", num_classes={"seg": 3}).eval()
    model["depth/head"].model.max_depth = 80.0
    model.save_pretrained(tmp_path / "model")
    again = BrickCollection.from_pretrained(tmp_path / "model").eval()
    assert again["depth/head"].model.max_depth == 80
    image, outputs = {"image": torch.rand(2, 3, 64, 64)}, ("seg/logits", "depth/depth")
    expected = model(image, outputs=outputs)
    for name, value in again(image, outputs=outputs).items():
        torch.testing.assert_close(value, expected[name])
    other = create_model("test_vit_cls", num_classes=2, img_size=64).eval()
    other.swap("backbone", f"{tmp_path / 'model'}/backbone")
    for head in ("seg", "depth"):
        other.swap(head, f"{tmp_path / 'model'}/{head}")
    for name, value in other(image, outputs=outputs).items():
        torch.testing.assert_close(value, expected[name])
    resnet = create_model("test_resnet_cls", num_classes=2)
    with pytest.raises(
        BrickMismatchError, match="outputs of transformer blocks: expected 'normed_features', found none"
    ):
        resnet.swap("seg", f"{tmp_path / 'model'}/seg", check="shape")
    reasons = fits(inspect_brick(f"{tmp_path / 'model'}/depth"), resnet, "shape")
    assert any("'class_tokens'" in reason for reason in reasons)


def test_a_stored_backbone_without_what_fresh_heads_read_is_refused(tmp_path):
    model = model_of("seg-linear", num_classes=3)
    before = create_model("test_vit_cls", num_classes=2, img_size=64)  # as it was stored before there were such values
    before["backbone"].output_names = ["features", "embedding"]
    before["backbone"].provides = dataclasses.replace(before["backbone"].provides, block_outputs=())
    before.save_pretrained(tmp_path / "before")
    with pytest.raises(BrickMismatchError, match="seg/head: outputs of transformer blocks: expected 'normed_features'"):
        model.swap("backbone", tmp_path / "before", check="shape")
    again = BrickCollection.from_pretrained(tmp_path / "before").eval()
    image = {"image": torch.rand(1, 3, 64, 64)}
    expected = before.eval()(image, outputs="cls/logits")["cls/logits"]
    torch.testing.assert_close(again(image, outputs="cls/logits")["cls/logits"], expected)


@pytest.mark.slow
def test_a_model_of_such_heads_is_compiled_and_exported(tmp_path):
    model = model_of("cls-linear4_depth-dpt_seg-linear4", num_classes={"cls": 3, "seg": 3}).eval()
    image, outputs = {"image": torch.rand(2, 3, 64, 64)}, ("cls/logits", "seg/logits", "depth/depth")
    expected = model(image, outputs=outputs)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    exported = torch.export.export(model, (image,), {"outputs": outputs}).module()
    for call in (compiled, exported):
        for name, value in call(image, outputs=outputs).items():
            torch.testing.assert_close(value, expected[name])
    checks.assert_exported(model_of("depth-linear4", num_classes=None), tmp_path, "depth")
