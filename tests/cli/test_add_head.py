import pytest
import torch
from click.testing import CliRunner

import brickyard
from brickyard import BrickCollection, create_model
from brickyard.cli.main import main
from brickyard.training.run_folder import SETTINGS, read_settings
from tests.storage.test_save_bricks_of_a_model import contents

SHORT = ["--data", "digits", "--image-size", "48", "--steps", "2", "--batch-size", "2", "--every", "1"]
IMAGE = {"image": torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))}


@pytest.fixture(autouse=True)
def _few_scenes(monkeypatch):
    monkeypatch.setattr("brickyard.data.readers._NUM_SCENES", {"train": 50, "val": 4, "test": 6})


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    create_model("test_resnet_det-ssdlite", num_classes=2).save_pretrained(tmp_path / "model", weights="mine")
    return tmp_path / "model"


def run(*arguments):
    return CliRunner().invoke(main, ["add-head", *map(str, arguments)])


def outputs_of(folder):
    with torch.no_grad():
        outputs = BrickCollection.from_pretrained(folder).eval()(IMAGE, tags={"MODEL", "INFERENCE"})
    return outputs | {f"features[{level}]": each for level, each in enumerate(outputs.pop("features"))}


@pytest.mark.slow
def test_a_head_is_added_to_a_folder_and_the_others_stay(folder):
    before, files = outputs_of(folder), contents(folder)
    result = run(folder, "parts=seg-lraspp", *SHORT)
    assert result.exit_code == 0, result.output
    assert f"{folder} has the new head 'parts'. The run is in {folder}-parts." in result.output
    assert f"brickyard eval {folder} --data digits" in result.output
    after, now = outputs_of(folder), contents(folder)
    assert after["parts/logits"].shape == (1, 11, 48, 48)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(now[name] == content for name, content in files.items() if name != "bricks.json")
    settings = read_settings(folder.with_name("model-parts") / SETTINGS)
    assert settings["head"] == {"parts": "seg-lraspp"}
    assert settings["image_size"] == [48, 48]
    result = run(folder, "parts=seg-lraspp", *SHORT, "--resume")
    assert result.exit_code == 1
    assert "a name that the model does not have" in result.output


@pytest.mark.slow
def test_an_interrupted_command_is_resumed(folder, monkeypatch):
    fit = brickyard.training.add_head.fit

    def interrupted(*args, **kwargs):
        fit(*args, **kwargs)
        raise KeyboardInterrupt

    files = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr("brickyard.training.add_head.fit", interrupted)
        result = run(folder, "seg=seg-lraspp", *SHORT)
    assert result.exit_code == 130
    assert "Run the same command with --resume" in result.output
    assert contents(folder) == files
    result = run(folder, "seg=seg-lraspp", *SHORT, "--resume")
    assert result.exit_code == 0, result.output
    assert "seg" in BrickCollection.from_pretrained(folder)


@pytest.mark.slow
def test_a_model_of_the_zoo_gets_a_head_in_another_folder(folder, tmp_path, monkeypatch):
    zoo = tmp_path / "zoo" / "test_resnet_det-ssdlite.mine"
    zoo.parent.mkdir()
    folder.rename(zoo)
    monkeypatch.setenv("BRICKYARD_ZOO", str(zoo.parent))
    before, files = outputs_of(zoo), contents(zoo)
    result = run("test_resnet_det-ssdlite.mine", "seg", *SHORT)
    assert result.exit_code == 2
    assert "--out" in result.output
    result = run("test_resnet_det-ssdlite.mine", "seg", *SHORT, "--out", tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert contents(zoo) == files
    after = outputs_of(tmp_path / "new")
    assert "seg/logits" in after
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert contents(tmp_path / "new")["backbone.safetensors"] == files["backbone.safetensors"]
    assert (tmp_path / "new-seg" / SETTINGS).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["det", *SHORT], "a name that the model does not have"),
        (["parts=segm", *SHORT], "Did you mean 'seg'"),
        (["a/b=seg", "--data", "coco:none"], "found a path"),
        (["ocr", *SHORT], "Heads for this data: cls=cls-multilabel"),
        (["seg", *SHORT, "--resume", "--overwrite"], "it cannot be used with --resume"),
        (["seg", *SHORT, "--resume"], "to resume"),
        (["seg", *SHORT, "--lr", "0"], "--lr"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_is_written(folder, arguments, message):
    files = contents(folder)
    result = run(folder, *arguments)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.replace("│", " ").split())
    assert contents(folder) == files
    assert [each.name for each in folder.parent.iterdir()] == ["model"]


def test_the_folder_to_write_to_must_be_empty(folder, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    result = run(folder, "seg", *SHORT, "--out", tmp_path / "other")
    assert result.exit_code == 1
    assert "is not empty" in result.output


def test_the_options_of_a_training_are_those_of_train():
    commands = [main.commands[name] for name in ("train", "add-head")]
    train, add_head = ({each.name: each.opts for each in command.params} for command in commands)
    only_train = {"model", "config", "pretrained", "bricks", "freeze", "unfreeze", "allow_unlabelled", "layer_decay"}
    only_train |= {"loggers", "ratio"}
    assert train.keys() - add_head.keys() == only_train
    assert add_head.keys() - train.keys() == {"name", "head", "run"}
