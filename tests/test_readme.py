"""The README's Python runs as it stands, one block after the other."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.slow
def test_the_blocks_of_the_readme_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "\n".join(BLOCKS).replace("src/brickyard/samples", str(README.parent / "src/brickyard/samples"))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(README), "exec"), {})
    assert (tmp_path / "build" / "model.onnx").exists()
    assert (tmp_path / "build" / "bricks" / "breed" / "classify.safetensors").exists()
