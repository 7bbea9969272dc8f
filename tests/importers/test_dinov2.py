import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from timm.data import ImageNetInfo

from brickyard import (
    BrickCollection,
    BrickInputError,
    BrickIntegrityError,
    BrickMismatchError,
    HubConnectionError,
    create_model,
    export_onnx,
    import_model,
    list_models,
    model_info,
)
from brickyard.importers.importing import IMPORTS, describe_import
from brickyard.storage.sources.files import DEFAULT_ACCESS
from brickyard.storage.sources.hub import HubFiles
from tests.importers import dinov2 as published

ENTRIES = {source: entry for source, entry in IMPORTS.items() if source.startswith("dinov2:")}
HEADS = [source for source, entry in ENTRIES.items() if not entry.combines]
SMALL = [source for source in HEADS if "vits14" in source]
OUTPUTS = {"cls": "cls/logits", "seg": "seg/logits", "depth": "depth/depth"}
SIZE = 70  # 5 x 5 patches: an odd number, so that DPT's half is rounded up


def stem_of(source):
    return source.partition(":")[2]


def image_of(size=SIZE):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def of_size(entry, size=SIZE):
    """The same entry for a backbone of small images."""
    return replace(entry, options={"img_size": size}, image_size=(size, size))


def on_test_vit(entry):
    """The same heads on a small backbone, by the names of timm's smallest transformer."""
    backbone = replace(entry.backbone, source="hf://timm/test_vit/backbone", name="test_vit.r160_in1k")
    tokens = entry.name.partition("dinov2_")[2]
    return replace(
        entry,
        name=f"test_vit_{tokens}",
        backbone=backbone,
        image_size=(160, 160),
        combines=tuple(map(on_test_vit, entry.combines)),
    )


def of_test_vit(source):
    """A state of the published names for a backbone of 64 channels."""
    return published.random_state(published.published_shapes(stem_of(source), width=64))


def run(model, image, output):
    with torch.no_grad():
        return model.eval()({"image": image}, outputs=output)[output]


@pytest.mark.parametrize("source", SMALL)
def test_outputs_are_those_of_the_published_head(source, monkeypatch):
    entry = of_size(ENTRIES[source])
    monkeypatch.setitem(IMPORTS, source, entry)
    backbone = published.backbone(entry.backbone.name.partition(".")[0], SIZE)
    state = published.random_state(published.published_shapes(stem_of(source)))
    (task,) = entry.tasks
    model = import_model(source, weights={task: state, "backbone": backbone.state_dict()})
    expected = published.head(stem_of(source), state, backbone, image_of())
    assert expected.std() > 0.01
    torch.testing.assert_close(run(model, image_of(), OUTPUTS[task]), expected, rtol=1e-5, atol=1e-5)
    assert not model["backbone"].trainable
    assert model[f"{task}/head"].trainable


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vitb14", "vitl14", "vitg14"])
def test_larger_sizes_read_the_blocks_of_the_published_heads(model, monkeypatch):
    """With fewer channels, since only the numbers of blocks and heads differ."""
    source = f"dinov2:{model}_kitti_dpt"
    entry = of_size(ENTRIES[source], 56)
    name = entry.backbone.name.partition(".")[0]
    depth = {"vitb14": 12, "vitl14": 24, "vitg14": 40}[model]
    with torch.device("meta"):
        assert len(timm.create_model(name).blocks) == depth
    small = {"embed_dim": 48, "num_heads": 3, "img_size": 56}
    monkeypatch.setitem(IMPORTS, source, replace(entry, options=small))
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0, **small).eval()
    state = published.random_state(published.published_shapes(stem_of(source), width=48))
    model = import_model(source, weights={"depth": state, "backbone": backbone.state_dict()})
    expected = published.head(stem_of(source), state, backbone, image_of(56))
    torch.testing.assert_close(run(model, image_of(56), "depth/depth"), expected, rtol=1e-5, atol=1e-5)


def by_size(source):
    return pytest.param(source, marks=[] if "vits14" in source else pytest.mark.slow)


@pytest.mark.parametrize("source", [*map(by_size, HEADS)])
def test_the_head_has_the_tensors_of_the_published_file(source):
    entry = ENTRIES[source]
    (task,) = entry.tasks
    expected = {}
    for name, shape in published.published_shapes(stem_of(source)).items():
        prefix = next(prefix for prefix in entry.prefixes if name.startswith(prefix.source))
        assert prefix.brick == f"{task}/head"
        expected[prefix.target + name.removeprefix(prefix.source)] = shape
    state = describe_import(entry)[f"{task}/head"].module.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected


def test_labels_sizes_and_addresses_are_those_of_the_source():
    assert len(HEADS) == 4 * (4 + 4 + 6)
    for source, entry in ENTRIES.items():
        labels = {task: len(names) for task, names in entry.labels.items()}
        assert labels.items() <= {"cls": 1000, "seg": 21 if "voc" in source else 150, "depth": 1}.items()
        assert entry.licence == entry.backbone.licence == "apache-2.0"
        assert entry.image_size[0] % 14 == 0
        assert ("_reg4" in entry.name) == ("_reg4" in source)
    base = "https://dl.fbaipublicfiles.com/dinov2"
    assert ENTRIES["dinov2:vits14_reg4_linear4"].url == f"{base}/dinov2_vits14/dinov2_vits14_reg4_linear4_head.pth"
    assert ENTRIES["dinov2:vitg14_nyu_dpt"].url == f"{base}/dinov2_vitg14/dinov2_vitg14_nyu_dpt_head.pth"
    ade20k, voc = (ENTRIES[f"dinov2:vits14_{data}_ms"].labels["seg"] for data in ("ade20k", "voc2012"))
    assert len(set(ade20k)) == 150
    assert (ade20k[0], ade20k[12], ade20k[-1]) == ("wall", "person", "flag")
    assert (voc[0], voc[1], voc[15], voc[-1]) == ("background", "aeroplane", "person", "tvmonitor")
    assert ENTRIES["dinov2:vits14_linear"].labels["cls"] == tuple(ImageNetInfo("imagenet-1k").label_descriptions())
    sizes = {  # of the published files
        "vits14_linear": 3_077_159,
        "vitb14_ade20k_linear": 1_423_161,
        "vitl14_nyu_linear": 6_299_371,
        "vits14_nyu_dpt": 160 * 2**20,
    }
    for stem, size in sizes.items():
        assert ENTRIES[f"dinov2:{stem}"].size == pytest.approx(size, rel=0.011)


@pytest.mark.slow
def test_heads_of_all_tasks_share_one_backbone(monkeypatch, tmp_path):
    source = "dinov2:vits14"
    entry = of_size(ENTRIES[source])
    monkeypatch.setitem(IMPORTS, source, entry)
    stems = {"cls": "vits14_linear4", "seg": "vits14_ade20k_ms", "depth": "vits14_nyu_dpt"}
    states = {task: published.random_state(published.published_shapes(stem)) for task, stem in stems.items()}
    backbone = published.backbone("vit_small_patch14_dinov2", SIZE)
    model = import_model(source, weights={**states, "backbone": backbone.state_dict()})
    model.save_pretrained(tmp_path / "model")
    loaded = BrickCollection.from_pretrained(tmp_path / "model")
    passes = []
    model["backbone"].model.patch_embed.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        values = model.eval()({"image": image_of()}, outputs=tuple(OUTPUTS.values()))
    assert len(passes) == 1
    for task, stem in stems.items():
        expected = published.head(stem, states[task], backbone, image_of())
        torch.testing.assert_close(values[OUTPUTS[task]], expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(run(loaded, image_of(), OUTPUTS[task]), values[OUTPUTS[task]])
    assert loaded["depth/head"].model.max_depth == 10
    assert not loaded["backbone"].trainable
    requires = {
        json.loads((tmp_path / f"model/{task}/head.json").read_text())["requires"]["backbone"]["sha256"]
        for task in stems
    }
    assert len(requires) == 1


@pytest.fixture
def small(monkeypatch):
    """The entries of ViT-S on timm's smallest transformer: from a source to the entry."""
    for source in ("dinov2:vits14", *SMALL):
        monkeypatch.setitem(IMPORTS, source, on_test_vit(ENTRIES[source]))
    return {source: IMPORTS[source] for source in ("dinov2:vits14", *SMALL)}


@pytest.fixture
def timm_repo(hub, tmp_path):
    """timm's repo of the small backbone."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0)
    timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True)
    hub.put("timm/test_vit", {file.name: file.read_bytes() for file in (tmp_path / "timm").iterdir()})
    return model.eval()


def test_files_of_several_heads_refer_to_timm_s_own_backbone(small, timm_repo, tmp_path):
    folders = {}
    for source in ("dinov2:vits14_ade20k_ms", "dinov2:vits14_kitti_linear4"):
        (task,) = small[source].tasks
        model = import_model(source, weights=of_test_vit(source))
        folders[task] = tmp_path / task
        model.save_pretrained(folders[task], refer=["backbone"])
        assert not (folders[task] / "backbone.safetensors").exists()
        at = json.loads((folders[task] / "bricks.json").read_text())["bricks"]["backbone"]["at"]
        assert at == HubFiles("timm/test_vit", None, DEFAULT_ACCESS).uri("backbone")
        loaded = BrickCollection.from_pretrained(folders[task])
        image, output = image_of(160), OUTPUTS[task]
        assert torch.equal(run(loaded, image, output), run(model, image, output))
    model = BrickCollection.from_pretrained(folders["depth"])
    depth = run(model, image_of(160), "depth/depth")
    model.swap("seg", folders["seg"] / "seg")
    assert torch.equal(run(model, image_of(160), "depth/depth"), depth)
    assert run(model, image_of(160), "seg/logits").shape == (2, 150, 160, 160)
    with torch.no_grad():
        model["backbone"].model.norm.bias += 1
    with pytest.raises(BrickMismatchError, match="weights of the backbone"):
        model.swap("seg", folders["seg"] / "seg")


def legacy_file(state):
    """A checkpoint as old trainings wrote it: with the optimizer, and numbers of numpy before version 2."""
    content = io.BytesIO()
    meta = {"epoch": 24, "best": np.float64(0.5), "last": np.float32(0.25), "CLASSES": ("a", "b")}
    checkpoint = {"meta": meta, "state_dict": state, "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.rand(2)}}}}
    torch.save(checkpoint, content, _use_new_zipfile_serialization=False)
    return content.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_a_file_with_optimizer_and_numbers_of_numpy_is_read(small, timm_repo, tmp_path):
    source = "dinov2:vits14_kitti_linear"
    state = of_test_vit(source)
    file = tmp_path / "head.pth"
    file.write_bytes(legacy_file(state))
    assert b"numpy.core.multiarray" in file.read_bytes()
    model = import_model(source, weights=file)
    head = model["depth/head"]
    assert torch.equal(head.module.score.weight, state["decode_head.conv_depth.weight"])
    assert head.module.max_depth == 80
    assert head.metadata["source_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert head.metadata["source"] == f"{source} with weights of the user"
    assert head.head.image_size == (160, 160)


def test_a_downloaded_file_has_licence_and_hash_and_a_known_hash_is_checked(small, timm_repo, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setattr("brickyard.create._on_hub", lambda name: None)
    (tmp_path / "cache" / "checkpoints").mkdir(parents=True)
    source = "dinov2:vits14_voc2012_linear"
    entry, content = small[source], legacy_file(of_test_vit("dinov2:vits14_voc2012_linear"))
    cached = tmp_path / "cache" / "checkpoints" / entry.file_name
    cached.write_bytes(content)
    assert entry.hash_prefix is None
    model = create_model(entry.name, pretrained=True)
    sha256 = hashlib.sha256(content).hexdigest()
    metadata = model["seg/head"].metadata
    assert (metadata["source"], metadata["source_sha256"]) == (f"{source}, {entry.url}", sha256)
    assert metadata["licence"] == "apache-2.0"
    assert repr(create_model(entry.name)) == repr(model)
    monkeypatch.setitem(IMPORTS, source, replace(entry, sha256=sha256))
    assert import_model(source)["seg/head"].metadata == metadata
    monkeypatch.setitem(IMPORTS, source, replace(entry, sha256="0" * 64))
    with pytest.raises(BrickIntegrityError, match=f"(?s){sha256}.*{'0' * 64}"):
        import_model(source)
    known = IMPORTS["dinov2:vits14_linear"]
    (tmp_path / known.file_name).write_bytes(content)
    with pytest.raises(BrickIntegrityError, match=known.sha256):
        import_model("dinov2:vits14_linear", weights=tmp_path / known.file_name)


def test_missing_extra_and_misshapen_tensors_of_a_head_are_one_error(small):
    source = "dinov2:vits14_nyu_dpt"
    state = of_test_vit(source)
    wrong = "decode_head.fusion_blocks.1.res_conv_unit1.conv2.conv.weight"
    del state["decode_head.project.conv.bias"]
    state |= {"decode_head.more": torch.zeros(1), "other": torch.zeros(2), wrong: torch.zeros(3)}
    with pytest.raises(BrickMismatchError) as error:
        import_model(source, weights=state)
    problems = error.value.problems
    for name in ("decode_head.project.conv.bias", "decode_head.more", "other", wrong):
        assert sum(f"'{name}'" in problem for problem in problems) == 1
    assert len(problems) == 4


def test_one_checkpoint_for_several_heads_is_refused(small, tmp_path):
    for weights in (of_test_vit("dinov2:vits14_nyu_dpt"), tmp_path / "head.pth", {"det": {}}):
        with pytest.raises(BrickInputError, match=r"\['cls', 'depth', 'seg', 'backbone'\]"):
            import_model("dinov2:vits14", weights=weights)


def test_without_a_network_the_error_states_the_file_of_the_backbone(small, monkeypatch):
    def no_network(source):
        raise HubConnectionError(f"{source} cannot be reached")

    monkeypatch.setattr("brickyard.importers.importing.load_brick", no_network)
    source = "dinov2:vits14_linear"
    with pytest.raises(HubConnectionError, match=r"https://huggingface.co/timm/.*/model.safetensors.*'backbone'"):
        import_model(source, weights=of_test_vit(source))


def test_names_of_models_are_known():
    name = "vit_small_patch14_dinov2_cls-linear4_depth-dpt_seg-linear4.dinov2_ade20k_nyu"
    assert name in list_models(pretrained=True, tasks=["cls", "seg", "depth"])
    info = model_info(name)
    assert (info.weights, info.frozen) == ("dinov2:vits14", ["backbone"])
    assert info.metrics == {"cls/accuracy ImageNet-1k (linear)": 81.1, "seg/mIoU ADE20K (multiscale)": 47.2}
    assert info.spec.input.resize_mode == "letterbox"
    assert info.parameters["backbone"] > 2e7


@pytest.mark.slow
def test_an_exported_model_of_three_heads_is_that_of_the_published_heads(small, timm_repo, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    stems = {"cls": "vits14_linear4", "seg": "vits14_ade20k_ms", "depth": "vits14_nyu_dpt"}
    states = {task: of_test_vit(f"dinov2:{stem}") for task, stem in stems.items()}
    model = import_model("dinov2:vits14", weights=states).eval()
    export_onnx(model, tmp_path / "model.onnx", image_size=160)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    values = session.run(list(OUTPUTS.values()), {"image": image_of(160).numpy()[:1]})
    for name, value in zip(OUTPUTS.values(), values, strict=True):
        torch.testing.assert_close(torch.from_numpy(value), run(model, image_of(160)[:1], name), rtol=1e-4, atol=1e-4)
