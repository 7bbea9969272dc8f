"""The pages of the documentation: Sphinx builds them without a warning, and their code runs page by page."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import brickyard

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SAMPLES = ROOT / "src" / "brickyard" / "samples"
BLOCK = re.compile(r"^```(?P<language>python|bash)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
UNTESTED = re.compile(r"^```(?:python|bash) no-run\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if BLOCK.search(page.read_text("utf-8")))


def _script(page: str) -> str:
    """Return the blocks of a page, in order, as one Python program. Trainings take two steps."""
    lines = ["import subprocess"]
    for block in BLOCK.finditer((DOCS / page).read_text("utf-8")):
        code = re.sub(r"--steps \d+", "--steps 2 --every 2", block["code"])
        is_shell = block["language"] == "bash"
        lines.append(f"subprocess.run(['bash', '-euo', 'pipefail', '-c', {code!r}], check=True)" if is_shell else code)
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_in_order(page: str, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES, tmp_path / "photos")
    shutil.copy(SAMPLES / "coffee.jpg", tmp_path / "photo.jpg")
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `brickyard` of this environment
    result = subprocess.run(
        [sys.executable, "-c", _script(page)],
        cwd=tmp_path,
        env={**os.environ, "PATH": commands},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_code_that_is_not_run_needs_a_network_a_cluster_or_data_of_the_reader() -> None:
    blocks = [block for page in DOCS.rglob("*.md") for block in UNTESTED.findall(page.read_text("utf-8"))]
    needed = (
        "pip install",
        "find_heads",
        "hf://",
        "push",
        "user/",
        "path/to",
        "ray",
        "torchvision:",
        "dinov2:",
        "torchrun",
    )
    assert [block for block in blocks if not any(word in block for word in needed)] == []


@pytest.mark.slow
def test_sphinx_builds_the_pages_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(DOCS), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "create_model" in (tmp_path / "api.html").read_text("utf-8")


def test_the_reference_has_every_public_name_once() -> None:
    names = re.findall(r"^\.\. [\w:]+:: brickyard\.(\w+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(names) == sorted(set(brickyard.__all__) - {"__version__"})
