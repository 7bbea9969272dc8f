import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from brickyard import (
    BrickInputError,
    BrickIntegrityError,
    BrickMismatchError,
    BrickNotFoundError,
    HubConnectionError,
    UnknownNameError,
    UnsafeBrickError,
    create_model,
    create_part,
    import_model,
)
from brickyard.importers.smp import to_smp
from tests.importers.smp_models import image_of, logits_of, smp_model


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    smp_model("unet").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of a model of smp, and the source that names it."""
    for file in written.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change(folder, **arguments):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **arguments}))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_absent_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(BrickNotFoundError, match=name):
        import_model(f"smp:{folder}")


def test_a_pickle_in_place_of_the_weights_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "model.bin")
    with pytest.raises(UnsafeBrickError, match="pickle"):
        import_model(f"smp:{folder}")


@pytest.mark.parametrize("source", ["smp:", "smp:no/such/folder", "smp:Unet", "smp:../x", "smp:user/repo@../../x"])
def test_a_source_of_another_form_is_refused(source):
    with pytest.raises((UnknownNameError, UnsafeBrickError)):
        import_model(source)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("mit_b0", "'resnet18'.*'tu-<name of timm>'"),
        ("efficientnet-b0", "encoder of smp"),
        ("timm-efficientnet-b0", "encoder of smp"),
        ("resnext101_32x48d", "'resnext101_32x16d'"),
        ("tu-test_resne", "'test_resnet'"),
        ("tu-hf-hub:user/repo", "backbone"),
        ("tu-local-dir:/tmp", "backbone"),
        ("../../evil", "encoder of smp"),
    ],
)
def test_another_encoder_is_refused_with_those_that_are_supported(folder, encoder, message):
    change(folder, encoder_name=encoder)
    with pytest.raises(UnknownNameError, match=f"(?s){message}"):
        import_model(f"smp:{folder}")


@pytest.mark.parametrize(
    "name", ["Unet3", "os.system", "__class__", "segmentation_models_pytorch.Unet", "create_model"]
)
def test_a_class_that_is_not_in_the_table_is_refused(folder, name):
    change(folder, _model_class=name)
    with pytest.raises(UnknownNameError, match="'unet'"):
        import_model(f"smp:{folder}")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"_model_class": None}, BrickMismatchError),
        ({"_model_class": ["Unet"]}, BrickMismatchError),
        ({"encoder_name": 3}, BrickMismatchError),
        ({"encoder_name": None}, BrickMismatchError),
        ({"encoder_depth": 0}, BrickMismatchError),
        ({"encoder_depth": 6}, BrickMismatchError),
        ({"encoder_depth": True}, BrickMismatchError),
        ({"encoder_depth": "5"}, BrickMismatchError),
        ({"encoder_output_stride": 16}, BrickMismatchError),
        ({"in_channels": 0}, BrickMismatchError),
        ({"in_channels": -3}, BrickMismatchError),
        ({"in_channels": 10**9}, UnsafeBrickError),
        ({"in_channels": 65000}, BrickMismatchError),
        ({"classes": 0}, BrickMismatchError),
        ({"classes": 2.5}, BrickMismatchError),
        ({"classes": 10**12}, UnsafeBrickError),
        ({"classes": [3]}, BrickMismatchError),
        ({"decoder_channels": [65536] * 5}, BrickMismatchError),
        ({"decoder_channels": [10**9] * 5}, UnsafeBrickError),
        ({"decoder_channels": [8] * 20000}, BrickMismatchError),
        ({"decoder_channels": 8}, BrickMismatchError),
        ({"decoder_channels": "abcde"}, BrickMismatchError),
        ({"decoder_channels": [-8] * 5}, BrickMismatchError),
        ({"decoder_use_norm": "inplace"}, BrickMismatchError),
        ({"decoder_use_norm": {"type": "batchnorm", "device": "cuda"}}, UnsafeBrickError),
        ({"decoder_use_norm": {"type": "batchnorm", "dtype": "float64"}}, UnsafeBrickError),
        ({"decoder_attention_type": "os.system"}, BrickMismatchError),
        ({"decoder_interpolation": {}}, BrickInputError),
        ({"decoder_of_mine": 3}, BrickMismatchError),
        ({"activation": "os.system"}, BrickMismatchError),
        ({"activation": "sigmoid"}, BrickMismatchError),
        ({"activation": "tanh"}, BrickMismatchError),
        ({"activation": {"name": "sigmoid"}}, BrickMismatchError),
        ({"aux_params": 3}, BrickMismatchError),
        ({"aux_params": {"classes": "many"}}, BrickMismatchError),
        ({"checkpoint_path": "x.pth"}, UnsafeBrickError),
        ({"pretrained_cfg": {"file": "x.pth"}}, UnsafeBrickError),
        ({"pretrained": True}, UnsafeBrickError),
        ({"cache_dir": "/tmp"}, UnsafeBrickError),
        ({"features_only": False}, UnsafeBrickError),
        ({"device": "cuda"}, UnsafeBrickError),
        ({"no_argument_of_timm": 1}, BrickMismatchError),
        ({"layers": [65536] * 4}, UnsafeBrickError),
    ],
)
def test_other_arguments_are_refused_before_memory_is_allocated(folder, arguments, error):
    change(folder, **arguments)
    with pytest.raises(error):
        import_model(f"smp:{folder}")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", BrickIntegrityError),
        (b"{", BrickIntegrityError),
        (b"[1]", UnsafeBrickError),
        (b"null", UnsafeBrickError),
        (b'{"_model_class": "Unet", "_model_class": "Unet"}', UnsafeBrickError),
        (b'{"a": ' * 1000 + b"1" + b"}" * 1000, UnsafeBrickError),
        (b'{"_model_class": "Unet", "classes": NaN}', UnsafeBrickError),
        (b"{}", BrickMismatchError),
        (b'{"_model_class": "Unet"}', BrickMismatchError),
        (b" " * 9_000_000, UnsafeBrickError),
    ],
)
def test_a_config_that_is_not_one_is_refused(folder, content, error):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(error, match=r"config\.json"):
        import_model(f"smp:{folder}")


def test_missing_extra_and_misshapen_tensors_are_one_error_with_the_names_of_smp(folder):
    state = load_file(folder / "model.safetensors")
    del state["encoder.model.conv1.0.weight"], state["segmentation_head.0.bias"]
    state |= {"encoder.model.fc.weight": torch.zeros(1), "neck.weight": torch.zeros(1)}
    state["decoder.blocks.0.conv1.0.weight"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(BrickMismatchError) as error:
        import_model(f"smp:{folder}")
    assert len(error.value.problems) == 5
    for name in (
        "encoder.model.conv1.0.weight",
        "segmentation_head.0.bias",
        "encoder.model.fc.weight",
        "neck.weight",
        "decoder.blocks.0.conv1.0.weight",
    ):
        assert sum(f"'{name}'" in problem for problem in error.value.problems) == 1


def test_a_truncated_file_is_refused(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(BrickIntegrityError):
        import_model(f"smp:{folder}")


def test_weights_of_the_user_get_no_licence(folder, tmp_path):
    state = load_file(folder / "model.safetensors")
    model = import_model(f"smp:{folder}", weights=state)
    assert model["backbone"].metadata == {"source": f"smp:{folder.name} with weights of the user"}
    (folder / "model.safetensors").rename(tmp_path / "mine.safetensors")
    again = import_model(f"smp:{folder}", weights=tmp_path / "mine.safetensors")
    assert torch.equal(logits_of(model, image_of((64, 64))), logits_of(again, image_of((64, 64))))


def test_weights_do_not_travel_for_an_encoder_that_is_not_supported(hub, written):
    config = {**json.loads((written / "config.json").read_text()), "encoder_name": "mit_b0"}
    weights = (written / "model.safetensors").read_bytes()
    hub.put("user/repo", {"config.json": json.dumps(config).encode(), "model.safetensors": weights})
    with hub.recording() as seen, pytest.raises(UnknownNameError, match="mit_b0"):
        import_model("smp:user/repo")
    assert not seen.matching("*model.safetensors")


def test_without_a_network_the_error_says_what_to_download(hub):
    hub.put("user/repo", {"config.json": b"{}"})
    hub.fault("*", times=math.inf, status=503)
    with pytest.raises(HubConnectionError, match=r"config\.json and model\.safetensors"):
        import_model("smp:user/repo")


def test_a_dpt_that_reads_class_tokens_is_refused(tmp_path):
    smp_model("dpt", decoder_readout="cat").save_pretrained(tmp_path)
    with pytest.raises(BrickMismatchError, match="class tokens"):
        import_model(f"smp:{tmp_path}")


def test_only_what_was_imported_goes_back():
    with pytest.raises(BrickInputError, match="imported from smp"):
        to_smp(create_model("test_resnet_seg"))


def test_a_stored_config_that_was_changed_is_refused(folder):
    model = import_model(f"smp:{folder}")
    stored = model["seg/head"].metadata["smp_config"]
    stored["decoder_channels"] = [65536] * 5
    with pytest.raises(BrickMismatchError, match="decoder"):
        to_smp(model)
    stored["_model_class"] = "os.system"
    with pytest.raises(UnknownNameError, match="architecture"):
        to_smp(model)


def test_a_size_that_smp_does_not_take_is_an_error_that_states_the_multiple():
    part = create_part(
        "smp_decoder",
        architecture="linknet",
        levels=["image", 0, 1],
        channels=[3, 8, 8],
        strides=[1, 2, 4],
        num_classes=2,
    )
    with pytest.raises(BrickInputError, match="multiples of 4, found 10x8"):
        part(torch.zeros(1, 3, 10, 8), [torch.zeros(1, 8, 5, 4), torch.zeros(1, 8, 3, 2)])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"architecture": "os.system"}, UnknownNameError),
        ({"channels": [3, 8]}, BrickInputError),
        ({"decoder_use_norm": "os.system"}, UnsafeBrickError),
        ({"decoder_use_norm": {"type": "batchnorm", "device": "cuda"}}, UnsafeBrickError),
        ({"decoder_use_norm": {"eps": 1.0}}, UnsafeBrickError),
        ({"decoder_use_norm": ["batchnorm"]}, UnsafeBrickError),
    ],
)
def test_a_part_with_other_arguments_is_refused(arguments, error):
    right = {"levels": ["image", 0, 1], "channels": [3, 8, 8], "strides": [1, 2, 4], "num_classes": 3}
    with pytest.raises(error):
        create_part("smp_decoder", **{"architecture": "linknet", **right, **arguments})
