from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from brickyard import BrickError, BrickInputError, UnknownNameError
from brickyard.cli.train import train
from brickyard.training.run_folder import SETTINGS, read_settings

RUN = {
    "model": "test_resnet_cls",
    "data": ["digits-single"],
    "image_size": 48,
    "steps": 2,
    "batch_size": 2,
    "every": 1,
    "ema": 0.5,
    "freeze": ["backbone"],
    "patience": 5,
    "augment": "strong",
    "label_smoothing": 0.1,
    "unfreeze": ["backbone@1"],
    "loggers": ["csv"],
}


@pytest.fixture(autouse=True)
def _few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brickyard.data.readers._NUM_SCENES", {"train": 50, "val": 4, "test": 6})


def write(folder: Path, content: object) -> Path:
    file = folder / "run.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


def run(*arguments: object) -> None:
    result = CliRunner().invoke(train, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def parse(*arguments: object) -> dict[str, object]:
    return train.make_context("train", [str(argument) for argument in arguments]).params


def test_the_settings_of_a_run_repeat_it_and_the_command_line_overrides_them(tmp_path: Path) -> None:
    run("--config", write(tmp_path, RUN), "--out", tmp_path / "a", "--lr", "0.01")
    settings = read_settings(tmp_path / "a" / SETTINGS)
    assert {name: settings[name] for name in (*RUN, "lr")} == {**RUN, "lr": 0.01}
    options = {option.name for option in train.params if option.expose_value}
    assert settings.keys() == options - {"out", "resume", "overwrite"}
    run("--config", tmp_path / "a" / SETTINGS, "--out", tmp_path / "b")
    run("--config", tmp_path / "a" / SETTINGS, "--out", tmp_path / "c", "--seed", 1)
    for name in ("log.jsonl", SETTINGS, "last/cls/head.safetensors", "best/cls/head.safetensors"):
        first, second, other = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert first == second
        assert first != other
    run("--config", tmp_path / "b" / SETTINGS, "--out", tmp_path / "b", "--resume")


def test_a_file_has_the_types_of_the_command_line(tmp_path: Path) -> None:
    content = "model: a\ndata: digits\nlr: 1e-3\nclip: .inf\nflip: no\nimage_size: 48x96\nema: null\nbricks: [a=b, c=d]"
    values = parse("--config", write(tmp_path, content), "--out", tmp_path)
    assert (values["model"], values["lr"], values["clip"], values["flip"]) == ("a", 0.001, float("inf"), False)
    assert (values["image_size"], values["ema"], values["bricks"]) == ((48, 96), None, ("a=b", "c=d"))
    assert values["steps"] == 10_000


@pytest.mark.parametrize(
    ("content", "message", "error"),
    [
        ({"stepz": 1}, "Unknown option in .*run.yaml: 'stepz'. Did you mean 'steps'", UnknownNameError),
        ({"batch-size": 1}, "Did you mean 'batch_size'", UnknownNameError),
        ({"config": "a.yaml"}, "Unknown option", UnknownNameError),
        ({"steps": 0}, "run.yaml, steps: expected what --steps takes, found 0. 0 is not in the range", BrickInputError),
        ({"steps": 1.5}, "run.yaml, steps: .*'1.5' is not a valid integer", BrickInputError),
        ({"steps": None}, "run.yaml, steps: expected a single value, found None", BrickInputError),
        ({"steps": [1]}, r"run.yaml, steps: expected a single value, found \[1\]", BrickInputError),
        ({"freeze": [["backbone"]]}, "run.yaml, freeze: expected a single value, or a list", BrickInputError),
        ({"mode": "big"}, "run.yaml, mode: .*'big' is not one of 'min', 'max'", BrickInputError),
        ({"flip": "perhaps"}, "run.yaml, flip: .*not a valid boolean", BrickInputError),
        ("[1]", "run.yaml: expected options by name, as in 'steps: 1000', found list", BrickInputError),
        ("a: [", "run.yaml: expected options by name, as in 'steps: 1000', in YAML", BrickInputError),
        ("a: !!python/name:os.system", "run.yaml: expected .* in YAML", BrickInputError),
    ],
)
def test_a_bad_file_is_an_error_that_names_the_file_and_the_option(
    tmp_path: Path, content: object, message: str, error: type[BrickError]
) -> None:
    with pytest.raises(error, match=message):
        parse("a", "--data", "digits", "--out", tmp_path, "--config", write(tmp_path, content))


def test_what_is_neither_in_the_file_nor_given_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(click.MissingParameter, match="model"):
        parse("--config", write(tmp_path, {"data": "digits"}), "--out", tmp_path)
