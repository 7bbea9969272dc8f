import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from click.testing import CliRunner, Result
from PIL import Image

import brickyard
from brickyard import BrickMismatchError, create_mermaid_dag_graph, create_model
from brickyard.cli.main import main
from tests.toys import SOURCE, run_python

SAMPLES = Path(brickyard.__file__).parent / "samples"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def failed(*arguments: object) -> str:
    """Run a command that fails and return its error, which is one line."""
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert re.fullmatch(r"Error: [^\n]+\n", result.stderr)
    return result.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    create_model("test_resnet_cls", labels=["cat", "[red] fox", "dog"]).save_pretrained(folder)
    return f"local-dir:{folder}"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three images with the same stem and one with another, in two folders."""
    for name in ("a.png", "a.jpg", "deep/a.png", "b.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (30, 400, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    return tmp_path / "in"


def test_predict_writes_visualizations_and_json(model, folder, tmp_path):
    result = run("predict", folder, "--model", model, "--out", tmp_path / "out")
    assert result.exit_code == 0
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert [row["file"] for row in rows] == [str(folder / name) for name in ("a.jpg", "a.png", "b.png", "deep/a.png")]
    expected = [prediction.to_json() for prediction in brickyard.Predictor(model, device="cpu").predict(folder)]
    for row, other in zip(rows, expected, strict=True):
        assert {key: row[key] for key in ("file", "width", "height")} == {
            k: other[k] for k in ("file", "width", "height")
        }
        assert [result["label"] for result in row["cls"]] == [result["label"] for result in other["cls"]]


def test_files_with_the_same_stem_do_not_overwrite_each_other(model, folder, tmp_path):
    run("predict", folder, "--model", model, "--out", tmp_path / "out")
    drawn = [np.asarray(Image.open(file))[:30] for file in (tmp_path / "out").glob("*.png")]
    sources = [np.asarray(Image.open(file).convert("RGB")) for file in folder.rglob("*.*")]
    assert len(drawn) == len(sources) == 4
    assert all(any(np.array_equal(one, source) for one in drawn) for source in sources)


def test_names_that_differ_only_in_case_do_not_collide(model, folder, tmp_path):
    (folder / "a.png").rename(folder / "A.png")
    run("predict", folder / "A.png", folder / "a.jpg", "--model", model, "--out", tmp_path / "out")
    names = [file.name.lower() for file in (tmp_path / "out").glob("*.png")]
    assert len(names) == len(set(names)) == 2


def test_the_input_images_are_never_overwritten(model, folder):
    (folder / "b.png").rename(folder / "a_2.png")
    before = {file: file.read_bytes() for file in folder.rglob("*.*")}
    assert run("predict", *folder.glob("*.*"), "--model", model, "--out", folder).exit_code == 0
    assert len(list(folder.glob("*.png"))) == 5
    assert {file: file.read_bytes() for file in before} == before


def test_labels_are_printed_without_markup(model, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("predict", folder / "b.png", "--model", model)
    assert len(list((tmp_path / "predictions").glob("b*.png"))) == 1
    assert "[red] fox" in result.stdout
    assert result.stdout.count("%") == 3


def test_an_unreadable_image_is_reported_and_the_exit_code_is_1(model, folder, tmp_path):
    (folder / "bad [1].jpg").write_text("not an image")
    result = run("predict", folder, "--model", model, "--out", tmp_path / "out")
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("not read: ")]
    assert len(lines) == 1
    assert f"{folder}/bad [1].jpg" in lines[0]  # on one line, without markup
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert [("error" in row) for row in rows].count(True) == 1
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_the_shipped_model_names_the_samples(tmp_path):
    result = run("predict", SAMPLES, "--out", tmp_path)
    assert result.exit_code == 0
    assert "espresso" in result.stdout
    assert " cat" in result.stdout
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpg"], "nowhere.jpg"),
        ([SAMPLES, "--model", "reznet18_cls"], "'resnet18_cls'"),
        ([SAMPLES, "--model", "local-dir:nowhere"], "nowhere"),
        ([SAMPLES, "--device", "nonsense"], "nonsense"),
    ],
)
def test_an_error_of_predict_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in failed("predict", *arguments)


def test_a_folder_without_images_is_one_line(tmp_path):
    assert "images in this folder" in failed("predict", tmp_path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_use_has_exit_code_2():
    assert run("predict").exit_code == 2
    assert run("predict", SAMPLES, "--batch-size", "0").exit_code == 2
    assert run("no-such-command").exit_code == 2


@pytest.mark.slow
def test_list_prints_one_name_a_line():
    expected = [f"{name}_cls" for name in timm.list_models("test_vit*")]
    assert run("list", "test_vit*_cls", "--names").stdout.splitlines() == expected
    assert run("list", "test_vit*_cls").stdout.splitlines() == expected
    assert "tf_efficientnet_lite0_cls.in1k" in run("list", "--pretrained", "--names").stdout.splitlines()
    assert run("list", "resnet18_*", "--task", "cls", "--names").stdout.splitlines()[0] == "resnet18_cls"
    assert run("list", "no_such_*").stdout == run("list", "no_such_*", "--names").stdout == ""
    assert "'cls'" in failed("list", "--task", "clz")


def test_info_warns_of_parts_without_a_licence(tmp_path):
    model = brickyard.create_model("test_resnet_cls", num_classes=2)
    model["backbone"].metadata["licence"] = "mit"
    model.save_pretrained(tmp_path / "model")
    shown = run("info", tmp_path / "model").stdout
    assert re.search(r"^brick +backbone: [\d,]+ parameters, mit$", shown, re.M)
    assert re.search(r"^warning +no licence is stated for the weights of cls/head$", shown, re.M)
    assert "warning" not in run("info", "tf_efficientnet_lite0_cls").stdout


def test_info_shows_the_model():
    shown = run("info", "tf_efficientnet_lite0_cls").stdout
    for text in ("tf_efficientnet_lite0_cls.in1k", "3x224x224", "bicubic", "3,371,008", "1,281,000", "apache-2.0"):
        assert text in shown
    assert "1000 classes" in shown
    assert "r160_in1k" in run("info", "test_vit_cls").stdout
    assert "'resnet18_cls'" in failed("info", "reznet18_cls")


def test_graph_prints_mermaid(model):
    assert (
        run("graph", "test_resnet_cls").stdout.strip()
        == create_mermaid_dag_graph(create_model("test_resnet_cls")).strip()
    )
    assert run("graph", model).stdout.startswith("flowchart LR")
    assert "'resnet18_cls'" in failed("graph", "reznet18_cls")


@pytest.mark.parametrize("command", [[], ["predict"], ["list"], ["info"], ["graph"]])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(command, flag):
    result = run(*command, flag)
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    assert "\\b" not in result.stdout


def test_help_shows_the_examples_line_by_line():
    lines = [line.strip() for line in run("--help").stdout.splitlines()]
    assert any(re.fullmatch(r"brickyard predict photo\.jpg +run a model on an image", line) for line in lines)


def test_the_version_is_printed():
    assert brickyard.__version__ in run("--version").stdout


@pytest.mark.slow
def test_an_error_in_a_new_process_is_one_line_without_traceback():
    code = """
import sys
from click.testing import CliRunner
from brickyard.cli.main import main
sys.stderr = sys.stdout
sys.argv = ["brickyard", "info", "reznet18_cls"]
try:
    main()
except SystemExit as end:
    print("code", end.code)
"""
    lines = run_python(code, "-W", "error").splitlines()
    assert [lines[0].partition(":")[0], lines[1:]] == ["Error", ["code 1"]]


def test_a_user_module_is_imported_first(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from brickyard import BrickTrainable, LabelKind, Task, create_part, register_task\n"
        "class Size(Task):\n"
        "    name, variants, required_labels = 'size', ('linear',), ('size',)\n"
        "    label_kinds = {'size': LabelKind.METADATA}\n"
        "    def bricks(self, backbone, head):\n"
        "        part = create_part('linear', in_features=backbone.embedding, out_features=1)\n"
        "        return {'head': BrickTrainable(part, ['embedding'], ['./size'])}\n"
        "register_task(Size())\n",
        encoding="utf-8",
    )
    output = run_python(  # the working directory is not on the path of a console script
        f"import os, sys; os.chdir({str(tmp_path)!r}); sys.path.remove(''); from brickyard.cli.main import main; "
        "main(['--import', 'mine', 'info', 'test_resnet_size'])"
    )
    assert "size: task size, 1 classes" in output
    missing = run("--import", "not_there", "list")
    assert missing.exit_code == 2
    assert "No module named 'not_there'. It must be installed" in " ".join(missing.stderr.split())


def test_lines_and_notes_of_an_error_are_printed(monkeypatch):
    def fail(*_, **__):
        error = BrickMismatchError("The head does not fit", ["channels: expected 3, found 4", "sha256 " + "0" * 64])
        error.add_note("In brick 'seg/head'")
        raise error

    monkeypatch.setattr("brickyard.list_models", fail)
    lines = run("list", "--names").stderr.splitlines()
    assert lines == [
        "Error: The head does not fit:",
        "  - channels: expected 3, found 4",
        "  - sha256 " + "0" * 64,
        "In brick 'seg/head'",
    ]


@pytest.mark.slow
def test_many_models_are_listed_by_family_after_the_trained_ones():
    lines = run("list").stdout.splitlines()
    assert len(lines) < 200
    (trained,) = [line for line in lines if "tf_efficientnet_lite0_seg-unet.digits_v1" in line]
    assert re.search(r"18\.2 MB.*seg/MeanIoU 0\.\d+", trained)
    (resnet,) = [line for line in lines if re.search(r"│ resnet +│", line)]
    assert f" {len(timm.list_models(module='resnet'))} " in resnet
    with_weights = {name.partition(".")[0] for name in timm.list_models(module="resnet", pretrained=True)}
    assert f" {len(with_weights)} " in resnet
    assert lines[-1].startswith(f"{len(brickyard.list_models())} names in ")


@pytest.mark.slow
def test_a_closed_pipe_ends_a_list_without_a_message():
    command = f"{sys.executable} -c 'from brickyard.cli.main import main; main()' list --names | head -1"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    ended = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout == "aimv2_1b_patch14_224_cls\n"
    assert ended.stderr == ""


@pytest.mark.parametrize("command", ["predict", "list", "info", "inspect", "--help"])
@pytest.mark.slow
def test_an_ascii_terminal_gets_escaped_characters(command, tmp_path):
    folder, image = tmp_path / "modèle", tmp_path / "é.png"
    create_model("test_resnet_cls", labels=["chât", "b", "c"]).save_pretrained(folder)
    Image.new("RGB", (40, 30)).save(image)
    arguments = {
        "predict": [image, "--model", folder, "--out", tmp_path / "ö"],
        "list": ["list", "résnet"],
        "info": [folder],
        "inspect": [folder / "cls"],
        "--help": [],
    }[command]
    call = [sys.executable, "-c", "from brickyard.cli.main import main; main()", command, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(call, env=environment, capture_output=True, check=False, timeout=100)
    assert b"UnicodeEncodeError" not in ended.stderr
    assert b"Traceback" not in ended.stderr
    assert ended.returncode == (2 if command == "list" else 0), ended.stderr  # one argument too many
    if command == "predict":
        assert b"ch\\xe2t" in ended.stdout
