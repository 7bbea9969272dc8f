import inspect
import json
import math
import re
import sys

import pytest
import segmentation_models_pytorch as smp
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from brickyard import (
    BrickCollection,
    BrickMismatchError,
    MissingExtraError,
    create_model,
    export_onnx,
    import_model,
    inspect_brick,
    model_info,
)
from brickyard.cli.main import main
from brickyard.importers.smp import to_smp
from brickyard.parts.preprocess import IMAGENET_MEAN, IMAGENET_STD
from tests.importers.smp_models import MODELS, image_of, logits_of, masks_of, smp_model
from tests.toys import run_python

SIZES = {"unet": [(64, 96), (71, 45)], "pan": [(128, 160), (160, 128)]}  # a U-Net takes any size


def imported(model, folder, **arguments):
    model.save_pretrained(folder)
    return import_model(f"smp:{folder}", **arguments)


@pytest.mark.parametrize("architecture", MODELS)
def test_logits_are_those_of_smp_before_and_after_a_save_and_go_back(architecture, tmp_path):
    reference = smp_model(architecture)
    model = imported(reference, tmp_path / "smp")
    model.save_pretrained(tmp_path / "saved")
    loaded = BrickCollection.from_pretrained(tmp_path / "saved")
    back = to_smp(loaded).eval()
    for size in SIZES.get(architecture, [(64, 96), (160, 32)]):
        expected = masks_of(reference, image_of(size), model["backbone"].provides.input)
        assert expected.std() > 0.01
        for each in (model, loaded):
            assert torch.equal(logits_of(each, image_of(size)), expected)
        assert torch.equal(masks_of(back, image_of(size), model["backbone"].provides.input), expected)
    assert model_info(str(tmp_path / "saved")).name == (
        f"{MODELS[architecture][0].removeprefix('tu-')}_seg-smp{architecture}"
    )


@pytest.mark.parametrize("architecture", ["unet", "deeplabv3plus"])
def test_what_goes_back_is_a_file_that_smp_loads(architecture, tmp_path):
    model = imported(smp_model(architecture), tmp_path / "smp")
    to_smp(model).save_pretrained(tmp_path / "back")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("smp", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert smp.from_pretrained(tmp_path / "back").state_dict().keys() == before.keys()


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("unet", {"encoder": "resnet18", "encoder_depth": 3, "decoder_channels": [32, 16, 16], "in_channels": 1}),
        ("unet", {"encoder": "tu-test_efficientnet", "in_channels": 4}),
        ("unet", {"encoder": "tu-test_resnet", "encoder_depth": 4, "decoder_channels": [32, 16, 16, 16]}),
        ("unet", {"encoder": "timm-regnetx_002"}),
        ("unet", {"decoder_use_norm": False, "decoder_interpolation": "bilinear"}),
        ("fpn", {"encoder": "tu-test_convnext", "decoder_merge_policy": "cat"}),
        ("deeplabv3plus", {"encoder_output_stride": 8}),
        ("deeplabv3", {"encoder": "resnet18", "encoder_depth": 4, "decoder_aspp_separable": True}),
        ("pspnet", {"upsampling": 4}),
        ("dpt", {"encoder_output_indices": [0, 1, 2, 5]}),
    ],
)
def test_encoders_and_arguments_are_those_of_smp(architecture, arguments, tmp_path):
    reference = smp_model(architecture, **arguments)
    model = imported(reference, tmp_path / "smp")
    image = image_of((128, 96), arguments.get("in_channels", 3))
    expected = masks_of(reference, image, model["backbone"].provides.input)
    with torch.no_grad():
        coarse = model.eval()({"image": image}, outputs=["seg/coarse"])["seg/coarse"]
    assert torch.equal(coarse, expected)
    assert logits_of(model, image).shape == (2, 3, 128, 96)
    back = to_smp(model).eval()
    assert torch.equal(masks_of(back, image, model["backbone"].provides.input), expected)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_a_binary_model_has_two_classes_whose_probabilities_are_those_of_the_sigmoid(activation, tmp_path):
    reference = smp_model("unet", classes=1, activation=activation)
    model = imported(reference, tmp_path / "smp")
    image = image_of((64, 64))
    foreground = masks_of(reference, image, model["backbone"].provides.input)
    foreground = foreground.sigmoid() if activation is None else foreground
    with torch.no_grad():
        values = model.eval()({"image": image}, outputs=["seg/logits", "seg/class_prediction"])
    torch.testing.assert_close(values["seg/logits"].softmax(dim=1)[:, 1:], foreground)
    assert torch.equal(values["seg/class_prediction"], (foreground[:, 0] > 0.5).long())
    assert 0 < values["seg/class_prediction"].float().mean() < 1
    assert model["seg/head"].head.labels == ("background", "foreground")
    assert to_smp(model).segmentation_head[0].out_channels == 1


def test_a_softmax_is_left_out_of_the_logits(tmp_path):
    reference = smp_model("unet", activation="softmax2d")
    model = imported(reference, tmp_path / "smp")
    image = image_of((64, 64))
    expected = masks_of(reference, image, model["backbone"].provides.input)
    torch.testing.assert_close(logits_of(model, image).softmax(dim=1), expected)
    assert model["seg/head"].head.labels == ("0", "1", "2")


def test_images_are_normalised_as_smp_does_for_the_encoder(tmp_path):
    native = imported(smp_model("deeplabv3plus"), tmp_path / "native")
    assert native["backbone"].provides.input.mean == IMAGENET_MEAN
    assert native["backbone"].provides.input.std == IMAGENET_STD
    timm = imported(smp_model("unet"), tmp_path / "timm")
    expected = smp.encoders.get_preprocessing_params("tu-test_resnet")
    assert list(timm["backbone"].provides.input.mean) == expected["mean"]
    assert list(timm["backbone"].provides.input.std) == expected["std"]


def test_tensors_that_smp_does_not_have_are_the_same_in_every_import(tmp_path):
    reference = smp_model("unet", "tu-test_efficientnet")
    first, second = imported(reference, tmp_path / "first"), imported(reference, tmp_path / "second")
    assert set(first["backbone"].metadata["fresh"]) >= {"conv_head.weight", "bn2.bias"}
    for key, tensor in first["backbone"].state_dict().items():
        assert torch.equal(tensor, second["backbone"].state_dict()[key])
    assert not imported(smp_model("deeplabv3plus"), tmp_path / "third")["backbone"].metadata.keys() & {"fresh"}


def test_names_of_earlier_versions_are_taken(tmp_path):
    reference = smp_model("deeplabv3")
    reference.save_pretrained(tmp_path / "smp")
    new = {"decoder.aspp.": "decoder.0.", "decoder.conv.": "decoder.1.", "decoder.bn.": "decoder.2."}
    pattern = re.compile("|".join(map(re.escape, new)))
    old = {
        pattern.sub(lambda match: new[match[0]], key): value
        for key, value in load_file(tmp_path / "smp" / "model.safetensors").items()
    }
    assert "decoder.2.bias" in old
    model = import_model(f"smp:{tmp_path / 'smp'}", weights=old)
    image = image_of((64, 64))
    expected = masks_of(reference, image, model["backbone"].provides.input)
    assert torch.equal(logits_of(model, image), expected)

    smp_model("unet", decoder_use_norm=True).save_pretrained(tmp_path / "unet")
    config = json.loads((tmp_path / "unet" / "config.json").read_text())
    config["decoder_use_batchnorm"] = config.pop("decoder_use_norm")
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    assert import_model(f"smp:{tmp_path / 'unet'}")["seg/head"].metadata["smp_config"]["decoder_use_norm"] is True


def test_the_auxiliary_head_is_left_out_with_a_warning(tmp_path):
    reference = smp_model("unet", aux_params={"classes": 4})
    with pytest.warns(UserWarning, match="classification head"):
        model = imported(reference, tmp_path / "smp")
    image = image_of((64, 64))
    expected, _ = masks_of(reference, image, model["backbone"].provides.input)
    assert torch.equal(logits_of(model, image), expected)
    assert to_smp(model).classification_head is None


def test_the_command_writes_a_model(tmp_path):
    smp_model("unet").save_pretrained(tmp_path / "smp", model_card_kwargs={"license": "mit"})
    result = CliRunner().invoke(main, ["import", f"smp:{tmp_path / 'smp'}", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    for path in ("backbone", "seg/head"):
        config = json.loads((tmp_path / "out" / f"{path}.json").read_text())
        assert (config["source"], config["licence"]) == ("smp:smp", "mit")  # no folder of this machine
        assert len(config["source_sha256"]) == 64
    assert inspect_brick(str(tmp_path / "out" / "seg/head")).labels == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (None, "unknown"),
        ("no front matter", "unknown"),
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: my-licence\n---\n", "my-licence"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "unknown"),
        ("---\nlicense: 'a\n\n  b'\n---\n", "unknown"),
        ("---\n: [\n---\n", "unknown"),
        ("---\n- a\n---\n", "unknown"),
    ],
)
def test_the_licence_is_that_of_the_card(card, licence, tmp_path):
    smp_model("unet").save_pretrained(tmp_path / "smp")
    (tmp_path / "smp" / "README.md").unlink()
    if card is not None:
        (tmp_path / "smp" / "README.md").write_text(card)
    assert import_model(f"smp:{tmp_path / 'smp'}")["seg/head"].metadata["licence"] == licence


def test_a_repo_is_imported_from_the_hub(hub, tmp_path):
    reference = smp_model("unet")
    reference.save_pretrained(tmp_path / "smp")
    files = {file.name: file.read_bytes() for file in (tmp_path / "smp").iterdir()}
    first = hub.put("user/polyps", files)
    hub.put("user/polyps", {"README.md": b"---\nlicense: cc-by-4.0\n---\n"})
    model = import_model("smp:user/polyps")
    commit = hub.repos["user/polyps"].find("main").oid
    metadata = model["seg/head"].metadata
    assert metadata["source"] == f"smp:user/polyps, https://huggingface.co/user/polyps/tree/{commit}"
    assert metadata["licence"] == "cc-by-4.0"
    assert metadata["source_sha256"] == hub.repos["user/polyps"].find("main").files["model.safetensors"].sha256
    image = image_of((64, 64))
    assert torch.equal(logits_of(model, image), masks_of(reference, image, model["backbone"].provides.input))
    with hub.recording() as seen:
        hub.fault("*", times=math.inf, status=503)
        again = import_model("smp:user/polyps")  # from the cache
        hub.hint()
    assert seen
    assert again["seg/head"].metadata == metadata
    older = import_model(f"smp:user/polyps@{first}")
    assert older["seg/head"].metadata["licence"] == "mit"  # of the card that smp writes


def test_a_head_is_swapped_onto_an_equal_backbone_and_refused_elsewhere(tmp_path):
    first, second = smp_model("unet"), smp_model("fpn")
    second.encoder.load_state_dict(first.encoder.state_dict())
    model = imported(first, tmp_path / "first")
    for name, reference in (("second", second), ("other", smp_model("fpn", classes=2))):
        imported(reference, tmp_path / name / "smp").save_pretrained(tmp_path / name / "bricks")
    model.save_pretrained(tmp_path / "bricks")
    model = BrickCollection.from_pretrained(tmp_path / "bricks")
    model.swap("seg", tmp_path / "second" / "bricks" / "seg")
    image = image_of((64, 64))
    assert torch.equal(logits_of(model, image), masks_of(second, image, model["backbone"].provides.input))
    with torch.no_grad():
        model["backbone"].model.conv1[0].weight.add_(1)
    with pytest.raises(BrickMismatchError, match="backbone"):
        model.swap("seg", tmp_path / "other" / "bricks" / "seg")


def test_an_imported_model_is_given_other_classes(tmp_path):
    imported(smp_model("unet"), tmp_path / "smp").save_pretrained(tmp_path / "bricks")
    with pytest.warns(UserWarning, match="fresh weights"):
        model = create_model(f"local-dir:{tmp_path / 'bricks'}", labels=["sky", "sea"])
    assert logits_of(model, image_of((64, 64))).shape == (2, 2, 64, 64)
    with pytest.raises(BrickMismatchError, match="expected shape"):
        to_smp(model)


@pytest.mark.parametrize("classes", [1, 2])
def test_classes_are_named_and_all_weights_stay(classes, tmp_path):
    model = imported(smp_model("unetplusplus", "tu-test_resnet", classes=classes), tmp_path / "smp")
    model.save_pretrained(tmp_path / "bricks")
    named = create_model(f"local-dir:{tmp_path / 'bricks'}", labels=["healthy", "polyp"], rename=True)
    assert named["seg/head"].head.labels == ("healthy", "polyp")
    assert torch.equal(logits_of(named, image_of((64, 64))), logits_of(model, image_of((64, 64))))


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    smp_model("unet").save_pretrained(tmp_path / "smp")
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(MissingExtraError, match=r"brickyard\[importers\]"):
        import_model(f"smp:{tmp_path / 'smp'}")


@pytest.mark.slow
def test_without_the_extra_a_decoder_of_smp_names_it_and_others_are_built():
    code = """
        import sys
        sys.modules["segmentation_models_pytorch"] = None
        import brickyard
        print(len(brickyard.create_model("test_resnet_seg")))
        try:
            brickyard.create_model("test_resnet_seg-smpunet")
        except brickyard.MissingExtraError as error:
            print(error)
    """
    assert "brickyard[importers]" in run_python(inspect.cleandoc(code)).splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["unet", "fpn", "deeplabv3plus", "segformer"])
def test_an_exported_model_is_that_of_smp(architecture, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    reference = smp_model(architecture)
    model = imported(reference, tmp_path / "smp").eval()
    export_onnx(model, tmp_path / "model.onnx", image_size=(64, 96))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    image = image_of((64, 96))[:1]
    values = session.run(["seg/class_prediction"], {"image": image.numpy()})
    logits = masks_of(reference, image, model["backbone"].provides.input)
    best = logits.topk(2, dim=1).values
    is_clear = (best[:, 0] - best[:, 1]) > 1e-4
    assert is_clear.float().mean() > 0.9
    assert torch.equal(torch.from_numpy(values[0])[is_clear], logits.argmax(dim=1)[is_clear])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", MODELS)
def test_a_model_compiles_and_exports_as_one_graph(architecture, tmp_path):
    model = imported(smp_model(architecture), tmp_path / "smp").eval()
    image = image_of((160, 128))
    expected = logits_of(model, image)
    call = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(call({"image": image}, outputs=["seg/logits"])["seg/logits"], expected)
        program = torch.export.export(model, ({"image": image},), {"outputs": ["seg/logits"]})
        torch.testing.assert_close(program.module()({"image": image}, outputs=["seg/logits"])["seg/logits"], expected)
