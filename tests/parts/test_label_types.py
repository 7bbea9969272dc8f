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
def test_labels_of_the_declared_type_pass_as_they_are(kinds, value):
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
        (["str"], "near", "one str for all pictures"),
        (["float"], 0.5, "one float for all pictures"),
    ],
)
def test_labels_of_another_type_are_refused(kinds, value, found):
    check = CheckLabels({"age": ["int"], "distance": kinds}, location="cars/metadata")
    with pytest.raises(
        BrickInputError, match=f"cars/metadata: expected 'distance' of type {' or '.join(kinds)}, found {found}"
    ):
        check(torch.tensor([1, 2]), value)


def test_a_compiled_graph_takes_it():
    torch.compiler.reset()
    compiled = torch.compile(CheckLabels({"distance": ["float"]}), backend="eager", fullgraph=True)
    value = torch.rand(2)
    assert torch.equal(compiled(value)["distance"], value)
    torch.compiler.reset()
