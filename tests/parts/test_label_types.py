import pytest
import torch

from brickyard import BrickInputError
from brickyard.parts.label_types import CheckLabels


@pytest.mark.parametrize(
    ("kinds", "value"),
    [
        (["float"], torch.rand(2)),
        (["float"], torch.rand(2, dtype=torch.float64)),
        (["float"], [0.5, 1.5]),
        (["float", "int"], torch.tensor([1, 2])),
        (["int"], torch.tensor([1, 2], dtype=torch.uint8)),
        (["bool"], torch.tensor([True, False])),
        (["str"], ["near", "far"]),
        (["str"], ()),
    ],
)
def test_labels_of_the_declared_type_are_returned_unchanged(kinds, value):
    assert CheckLabels({"distance": kinds})(value)["distance"] is value


@pytest.mark.parametrize(
    ("kinds", "value", "found"),
    [
        (["float"], torch.tensor([1, 2]), "int"),
        (["float", "int"], torch.tensor([True]), "bool"),
        (["int"], torch.rand(2), "float"),
        (["float"], ["near", "far"], "str"),
        (["str"], torch.rand(2), "float"),
        (["str"], ["near", 3], "int"),
        (["str"], "near", "a single str instead of one value per image"),
        (["float"], 0.5, "a single float instead of one value per image"),
    ],
)
def test_labels_of_another_type_are_refused(kinds, value, found):
    check = CheckLabels({"age": ["int"], "distance": kinds})
    with pytest.raises(
        BrickInputError, match=f"CheckLabels: expected 'distance' of type {' or '.join(kinds)}, found {found}"
    ):
        check(torch.tensor([1, 2]), value)


def test_it_compiles_to_one_graph():
    torch.compiler.reset()
    compiled = torch.compile(CheckLabels({"distance": ["float"]}), backend="eager", fullgraph=True)
    value = torch.rand(2)
    assert torch.equal(compiled(value)["distance"], value)
    torch.compiler.reset()
