"""What a user does to a model's folder by hand, and weights that are stored in half precision."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from brickyard import BrickCollection, BrickIntegrityError, BrickMismatchError, create_model

IMAGE = {"image": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))}


def outputs_of(model, *names):
    with torch.no_grad():
        found = model.eval()(IMAGE, outputs=list(names))
    return [found[name] for name in names]


@pytest.fixture
def folder(tmp_path):
    create_model("test_resnet_cls", labels=["a", "b", "c"]).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def other(folder, tmp_path):
    """A model with the same backbone, another classifier and a second head."""
    with_seg = create_model("test_resnet_cls_seg-lraspp", num_classes={"cls": 3, "seg": 4})
    with_seg.update(
        {path: brick for path, brick in BrickCollection.from_pretrained(folder).bricks().items() if "/" not in path}
    )
    with_seg.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_a_head_s_folder_that_is_copied_in_belongs_to_the_model(folder, other):
    shutil.copytree(other / "seg", folder / "seg")
    with pytest.warns(UserWarning, match="'seg/head'.*differ from bricks.json; they fit the model and are used"):
        model = BrickCollection.from_pretrained(folder)
    theirs = BrickCollection.from_pretrained(other)
    assert torch.equal(*outputs_of(model, "seg/logits"), *outputs_of(theirs, "seg/logits"))
    model.save_pretrained(folder)
    BrickCollection.from_pretrained(folder)  # and from then on it is listed


def test_a_head_s_folder_that_is_copied_over_another_takes_its_place(folder, other):
    shutil.copytree(other / "cls", folder / "cls", dirs_exist_ok=True)
    with pytest.warns(UserWarning, match="'cls/head'"):
        model = BrickCollection.from_pretrained(folder)
    assert torch.equal(
        *outputs_of(model, "cls/logits"), *outputs_of(BrickCollection.from_pretrained(other), "cls/logits")
    )


def test_a_head_s_folder_can_be_moved_to_another_name(folder):
    shutil.copytree(folder / "cls", folder / "again")
    for name in ("loss", "metrics", "visualization", "metadata"):
        (folder / "again" / f"{name}.json").unlink(missing_ok=True)
    with pytest.warns(UserWarning, match="'again/head'"):
        model = BrickCollection.from_pretrained(folder)
    assert torch.equal(*outputs_of(model, "cls/logits", "again/logits"))


def test_a_copied_brick_that_does_not_fit_is_refused(folder, tmp_path):
    create_model("test_resnet_cls", num_classes=2).save_pretrained(tmp_path / "stranger")
    shutil.copytree(tmp_path / "stranger" / "cls", folder / "more")
    with pytest.raises(BrickMismatchError, match=r"'more/head'.*does not fit"):
        BrickCollection.from_pretrained(folder)


def test_weights_alone_that_are_copied_in_are_not_what_the_json_says(folder, other):
    shutil.copy(other / "cls" / "head.safetensors", folder / "cls" / "head.safetensors")
    with pytest.raises(BrickIntegrityError, match="sha256"):
        BrickCollection.from_pretrained(folder)


def test_models_in_folders_below_are_models_of_their_own(folder, other):
    shutil.copytree(other, folder / "best")
    (folder / "notes.json").write_text('{"format": "mine"}')
    model = BrickCollection.from_pretrained(folder)
    assert not [path for path in model.bricks() if path.startswith("best")]
    model.save_pretrained(folder)
    BrickCollection.from_pretrained(folder / "best")
    assert (folder / "notes.json").exists()


def test_fields_of_a_manifest_that_this_version_does_not_know_are_kept(folder):
    manifest = json.loads((folder / "bricks.json").read_text())
    (folder / "bricks.json").write_text(json.dumps({**manifest, "trained": {"by": "us"}}))
    BrickCollection.from_pretrained(folder).save_pretrained(folder)
    assert json.loads((folder / "bricks.json").read_text())["trained"] == {"by": "us"}


@pytest.fixture
def half(folder):
    """The same folder with every weight in half precision, as an author would write it."""
    model = BrickCollection.from_pretrained(folder).half()
    model.save_pretrained(folder)
    return folder


def weights(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.safetensors")}


def test_half_precision_keeps_its_bytes_when_it_is_saved_as_it_was_loaded(half, tmp_path):
    assert load_file(half / "backbone.safetensors")["conv1.0.weight"].dtype == torch.float16
    model = BrickCollection.from_pretrained(half)
    assert model["backbone"].model.conv1[0].weight.dtype == torch.float32
    model.save_pretrained(tmp_path / "again")
    assert weights(tmp_path / "again") == weights(half)
    model.swap("cls", half)  # and so its backbone is still the one that the head was trained on


def test_half_precision_becomes_full_where_training_needs_it(half, tmp_path):
    model = BrickCollection.from_pretrained(half)
    with torch.no_grad():
        model["cls/head"].model.weight += 1e-5
    model.save_pretrained(tmp_path / "again")
    stored = load_file(tmp_path / "again" / "cls" / "head.safetensors")
    assert stored["weight"].dtype == torch.float32
    assert torch.equal(stored["weight"], model["cls/head"].model.weight)
    assert (tmp_path / "again" / "backbone.safetensors").read_bytes() == (half / "backbone.safetensors").read_bytes()


def test_a_half_precision_model_is_pushed_and_pulled_as_it_is(half, hub):
    BrickCollection.from_pretrained(half).push_to_hub("owner/model")
    assert hub.files("owner/model")["backbone.safetensors"] == (half / "backbone.safetensors").read_bytes()
    with hub.recording() as seen:
        BrickCollection.from_pretrained("owner/model").push_to_hub("owner/model")
    assert not seen.matching("*/commit/*")


def test_a_safetensors_file_with_more_in_its_header_is_read_too(folder):
    file = folder / "cls" / "head.safetensors"
    tensors = load_file(file)
    save_file(tensors, file, metadata={"format": "pt", "author": "somebody"})
    with pytest.raises(BrickIntegrityError):
        BrickCollection.from_pretrained(folder)  # but it is another file than the JSON says
