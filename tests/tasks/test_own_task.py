"""A task from outside of the package, in processes that import its file and in one that does not."""

import json

import pytest

from tests.toys import run_python

IMPORT = "import tests.tasks.own_task\n"
PHOTO = "src/brickyard/samples/coffee.jpg"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A model with the task, its outputs and its summary, from another process."""
    folder = tmp_path_factory.mktemp("own") / "model"
    code = f"""
import json, torch
from brickyard import create_model
torch.manual_seed(0)
model = create_model("test_resnet_age_cls", num_classes={{"cls": 3}}).eval()
image = torch.arange(2 * 3 * 32 * 32).view(2, 3, 32, 32) / 6144
values = model({{"image": image, "targets/age/years": torch.tensor([3.0, 5.0])}}, skip_missing=True)
model.save_pretrained({str(folder)!r})
outputs = {{name: values[name].tolist() for name in ("age/age", "age/loss")}}
print(json.dumps({{**outputs, "summary": model.summarize(reset=True)["age/AgeError"].item()}}))
"""
    return folder, json.loads(run_python(IMPORT + code))


@pytest.mark.slow
def test_it_is_trained_and_measured(stored):
    _, values = stored
    ages = values["age/age"]
    expected = (abs(ages[0] - 3) + abs(ages[1] - 5)) / 2
    assert values["age/loss"] == pytest.approx(expected)
    assert values["summary"] == pytest.approx(expected)


@pytest.fixture(scope="module")
def described(stored):
    """What a second process reports about the model with the task, and at last without it."""
    code = f"""
import contextlib, io, json, torch, brickyard
from brickyard.storage.card import render_card
from brickyard.cli.main import main
from brickyard.storage.sources.uri import open_source
from brickyard.storage.read import read_bricks
from brickyard.tasks import registry

def printed(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        main(arguments, standalone_mode=False)
    return text.getvalue()

name = {str(stored[0])!r}
model = brickyard.BrickCollection.from_pretrained(name).eval()
image = torch.arange(2 * 3 * 32 * 32).view(2, 3, 32, 32) / 6144
report = {{"age/age": model({{"image": image}}, outputs=["age/age"])["age/age"].tolist()}}
info = brickyard.model_info(name)
report["info"] = [info.name, info.tasks]
report["result"] = next(brickyard.Predictor(model).predict({PHOTO!r})).results["age"]
report["listed"] = brickyard.list_models("test_resnet*", tasks=["age"])
manifest, bricks = read_bricks(open_source(name)[0])
report["card"] = render_card("mine", manifest, {{p: brick.info for p, brick in bricks.items()}}, "hf://user/mine")
report["commands"] = [printed("info", name), printed("graph", "test_resnet_age")]
del registry._TASKS["age"]
brickyard.BrickCollection.from_pretrained(name)  # bricks are all that runs
try:
    brickyard.create_model("local-dir:" + name)
except brickyard.UnknownNameError as error:
    report["without"] = str(error)
print(json.dumps(report))
"""
    return json.loads(run_python(IMPORT + code))


@pytest.mark.slow
def test_another_process_that_imports_its_file_loads_and_predicts(stored, described):
    assert described["age/age"] == stored[1]["age/age"]
    (result,) = described["result"]
    assert result.keys() == {"label", "years"}


def test_it_is_described_and_listed(described):
    assert described["info"] == ["test_resnet_cls_age", {"cls": "cls", "age": "age"}]
    assert "test_resnet_age" in described["listed"]


def test_its_card_and_the_command_line_describe_it(described):
    assert "`age`: task `age`, head `linear`, 1 classes" in described["card"]
    assert 'other.swap("age", "hf://user/mine/age")' in described["card"]
    info, graph = described["commands"]
    assert "age: task age, 1 classes" in info
    assert "AgeHead" in graph


def test_a_process_where_the_task_is_not_registered_says_so(described):
    assert described["without"].startswith("Unknown task 'age'.")
    assert "`register_task`" in described["without"]


@pytest.mark.slow
def test_a_process_that_does_not_import_its_file_says_what_is_unknown(stored):
    code = f"""
from brickyard import BrickCollection, UnknownNameError, create_model, list_models
calls = [
    lambda: BrickCollection.from_pretrained({str(stored[0])!r}),
    lambda: create_model("test_resnet_age"),
    lambda: list_models(tasks=["age"]),
]
for call in calls:
    try:
        call()
    except UnknownNameError as error:
        print(error)
"""
    unknown = [line.partition(".")[0] for line in run_python(code).splitlines()]
    assert unknown == ["Unknown part 'age_head'", "Unknown task 'age'", "Unknown task 'age'"]
