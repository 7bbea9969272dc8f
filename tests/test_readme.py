"""The README's Python runs as it stands, one block after the other."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from brickyard import Predictor, create_model, export_onnx

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def blocks_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.slow
def test_the_blocks_of_the_readme_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "\n".join(blocks_of(README)).replace("docs/digit_scene.png", str(ROOT / "docs/digit_scene.png"))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(README), "exec"), {})
    assert (tmp_path / "build" / "mine" / "seg" / "head.safetensors").exists()


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", [README, *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name)
def test_links_to_files_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0_cls.in1k", "tf_efficientnet_lite0_cls letterboxed"])
def test_an_exported_file_runs_without_brickyard(name: str, tmp_path: Path) -> None:
    model = create_model("tf_efficientnet_lite0_cls.in1k", pretrained=True)
    if name.endswith("letterboxed"):
        model["cls/head"].head = replace(model["cls/head"].head, image_size=(160, 224), resize_mode="letterbox")
    export_onnx(model, tmp_path / "model.onnx", check=False)
    (block,) = [block for block in blocks_of(ROOT / "docs" / "export.md") if "import onnxruntime" in block]
    sample = ROOT / "src/brickyard/samples/coffee.jpg"
    script = "import sys; sys.modules.update(dict.fromkeys(['brickyard', 'torch', 'torchvision', 'timm', 'onnx']))\n"
    script += block.replace("photo.jpg", str(sample))
    script += "\nprint(outputs['cls/probabilities'].max())"
    call = [sys.executable, "-c", script]
    lines = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    (prediction,) = Predictor(model, device="cpu").predict(sample)
    assert lines[0] == prediction.results["cls"][0]["label"] == "espresso"
    assert float(lines[1]) == pytest.approx(prediction.results["cls"][0]["probability"], abs=0.03)
