"""The README's Python runs as it stands, one block after the other."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from brickyard import Predictor, create_model, export_onnx

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.slow
def test_the_blocks_of_the_readme_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "\n".join(BLOCKS).replace("src/brickyard/samples", str(README.parent / "src/brickyard/samples"))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(README), "exec"), {})
    assert (tmp_path / "build" / "model.onnx").exists()
    assert (tmp_path / "build" / "bricks" / "breed" / "classify.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0_cls.in1k", "tf_efficientnet_lite0_cls letterboxed"])
def test_an_exported_file_runs_without_brickyard(name: str, tmp_path: Path) -> None:
    model = create_model("tf_efficientnet_lite0_cls.in1k", pretrained=True)
    if name.endswith("letterboxed"):
        model["cls/head"].head = replace(model["cls/head"].head, image_size=(160, 224), resize_mode="letterbox")
    (tmp_path / "build").mkdir()
    export_onnx(model, tmp_path / "build" / "lite0.onnx", check=False)
    (block,) = [block for block in BLOCKS if "import onnxruntime" in block]
    sample = README.parent / "src/brickyard/samples/coffee.jpg"
    script = "import sys; sys.modules.update(dict.fromkeys(['brickyard', 'torch', 'torchvision', 'timm', 'onnx']))\n"
    script += block.replace("src/brickyard/samples/coffee.jpg", str(sample))
    script += "\nprint(outputs['cls/probabilities'].max())"
    call = [sys.executable, "-c", script]
    lines = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    (prediction,) = Predictor(model, device="cpu").predict(sample)
    assert lines[0] == prediction.results["cls"][0]["label"] == "espresso"
    assert float(lines[1]) == pytest.approx(prediction.results["cls"][0]["probability"], abs=0.03)
