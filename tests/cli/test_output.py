"""What is printed can be copied, and errors name the flags of the command."""

import re

import click
import pytest
from click.testing import CliRunner
from rich.table import Table

from brickyard import BrickInputError, BrickMismatchError, create_model
from brickyard.cli.main import main
from brickyard.cli.output import echo_rows, echo_table, error_text, make_console

SHA256, URI = "0123456789abcdef" * 4, f"hf://organisation/{'repo' * 20}@{'0' * 40}/segmentation/head"


@click.command()
@click.option("--check")
@click.option("--brick", "bricks", multiple=True)
@click.option("--refer")
@click.option("-s", "--image-size", type=int)
@click.option("--allow-stale", is_flag=True)
def command(**options: object) -> None: ...


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("pass check='input' or check='shape'", "pass --check input or --check shape"),
        ("pass allow_stale=True", "pass --allow-stale"),
        ("bricks= names none", "--brick names none"),
        ("name its source: refer={'seg': 'hf://user/repo/seg'}.", "name its source: --refer seg=hf://user/repo/seg."),
        ("create it with image_size=64", "create it with --image-size 64"),
        ("exist_ok=True", "exist_ok=True"),  # no option of the command
        ("a checkpoint: check, and uncheck='x'", "a checkpoint: check, and uncheck='x'"),
    ],
)
def test_an_error_names_the_flag_and_not_python_s_argument(message, expected):
    assert error_text(ValueError(message), command) == expected


def test_an_argument_at_the_start_of_a_message_is_the_flag():
    error = BrickInputError("image_size", "a multiple of 32", "33")
    assert error_text(error, command) == "--image-size: expected a multiple of 32, found 33."


def test_the_lines_of_a_long_error_and_its_notes_stay_lines():
    error = BrickMismatchError("'seg' does not fit", [f"weights: expected {SHA256}", "strides"])
    error.add_note("In brick 'seg/head'.")
    assert error_text(error, command).splitlines() == [
        "'seg' does not fit:",
        f"  - weights: expected {SHA256}",
        "  - strides",
        "In brick 'seg/head'.",
    ]


@pytest.mark.parametrize("columns", ["20", "80", "1000"])
def test_hashes_and_uris_are_never_broken(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    echo_rows([("sha256", SHA256), ("uri", URI)])
    table = Table("name", "sha256", "uri")
    table.add_row("a", SHA256, URI)
    make_console().print(table, highlight=False)
    make_console().print(f"uri {URI} {SHA256}", highlight=False)
    printed = capsys.readouterr().out
    assert printed.count(SHA256) == printed.count(URI) == 3
    assert max(map(len, printed.splitlines())) < 500


def test_a_refused_swap_names_the_flag_and_keeps_its_lines(tmp_path):
    for name in ("mine", "other"):
        create_model("test_resnet_cls", num_classes=2).save_pretrained(tmp_path / name)
    result = CliRunner().invoke(main, ["swap", str(tmp_path / "mine"), "cls", str(tmp_path / "other")])
    assert result.exit_code == 1
    assert "pass --check input or --check shape" in result.stderr
    assert "check=" not in result.stderr
    assert re.search(r":\n  - weights of the backbone: expected sha256 \w{12}", result.stderr)


TEXTS = ["car [small]", "x[/b]", "[red]", "[", "a\\[b]", "0" * 300, ":cat:", "[link=http://x]y[/link]"]


def test_tables_print_texts_as_they_are(capsys):
    echo_table([f"head {text}" for text in TEXTS], [TEXTS], title=f"title {TEXTS[1]}")
    echo_table([], [TEXTS])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "title x[/b]"
    assert all(f"head {text}" in lines[2] for text in TEXTS)
    assert all(text in lines[4] for text in TEXTS)
    assert all(text in lines[-1] for text in TEXTS)


@pytest.mark.parametrize("text", TEXTS)
def test_rows_print_texts_as_they_are(text, capsys):
    echo_rows([(text, text), ("b", text)])
    assert capsys.readouterr().out.splitlines()[0] == f"{text}  {text}"
