"""The notebooks of the documentation run from the first cell to the last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert [output.output_type for output in last.outputs] == ["execute_result"]


def test_the_outputs_of_the_notebooks_name_no_folder_of_a_machine() -> None:
    assert len(NOTEBOOKS) == 3
    for file in NOTEBOOKS:
        notebook = nbformat.read(file, as_version=4)
        texts = [str(output) for cell in notebook.cells for output in cell.get("outputs", [])]
        assert not any("/tmp/" in text or "/home/" in text for text in texts), file.name
