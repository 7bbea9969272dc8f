import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from brickyard import (
    UNPACK_NO_CONVERSION,
    UNPACK_TENSORS_TO_NDARRAYS,
    BrickCollection,
    BrickGraphError,
    BrickInputError,
    BrickModule,
    BrickPerImageVisualization,
    function_composer,
    torch_to_numpy,
    unpack_batched_tensor_to_pillow_images,
)


def drawn_with(function, inputs, values, **kwargs):
    """What a visualization of `function` makes of `values`."""
    return BrickPerImageVisualization(function, inputs, ["drawn"], **kwargs)(values)["drawn"]


def test_the_function_gets_one_channel_last_array_an_image():
    images = torch.rand(2, 3, 4, 5)
    drawn = drawn_with(lambda image: image, ["image"], {"image": images})
    assert len(drawn) == 2
    for index, array in enumerate(drawn):
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, images[index].permute(1, 2, 0).numpy())


def test_a_number_an_image_comes_as_an_array_of_one_item():
    drawn = drawn_with(
        lambda image, label: label,
        ["image", "label"],
        {"image": torch.zeros(2, 3, 4, 5), "label": torch.tensor([7, 8])},
    )
    assert [(array.shape, array[0]) for array in drawn] == [((1,), 7), ((1,), 8)]


def test_arrays_are_unpacked_and_other_values_go_in_as_they_are():
    values = {"scores": np.arange(6).reshape(2, 3), "names": {0: "cat"}, "title": "text"}
    seen = []
    brick = BrickPerImageVisualization(
        lambda scores, names, title, absent: seen.append((scores.tolist(), names, title, absent)) or "visualization",
        ["scores", "names", "title", "mask?"],
        ["drawn"],
    )
    assert brick(values) == {"drawn": ["visualization", "visualization"]}
    assert seen == [([0, 1, 2], {0: "cat"}, "text", None), ([3, 4, 5], {0: "cat"}, "text", None)]


def test_a_list_has_one_item_an_image():
    values = {"image": torch.zeros(2, 3, 4, 5), "boxes": [torch.zeros(0, 4), torch.zeros(3, 4)]}
    assert drawn_with(lambda image, boxes: len(boxes), ["image", "boxes"], values) == [0, 3]


def test_inputs_can_go_in_by_keyword():
    values = {"image": torch.zeros(2, 3, 4, 5), "label": torch.tensor([7, 8])}
    drawn = drawn_with(
        lambda *, label, picture: label[0] + picture.ndim, {"label": "label", "picture": "image"}, values
    )
    assert drawn == [10, 11]


def test_without_conversion_each_item_is_a_tensor():
    images = torch.rand(2, 3, 4, 5)
    drawn = drawn_with(
        lambda image: image, ["image"], {"image": images}, unpack_functions_for_type=UNPACK_NO_CONVERSION
    )
    assert torch.equal(torch.stack(drawn), images)


def test_unpacking_by_name_goes_before_unpacking_by_type():
    values = {"image": torch.ones(2, 3, 4, 5), "label": torch.tensor([1, 0])}
    drawn = drawn_with(
        lambda image, label: [image, label],
        ["image", "label"],
        values,
        unpack_functions_for_type={torch.Tensor: unpack_batched_tensor_to_pillow_images},
        unpack_functions_for_input_name={"label": function_composer(torch_to_numpy, list)},
    )
    assert [label for _, label in drawn] == [1, 0]
    assert all(isinstance(image, Image.Image) and image.getpixel((0, 0)) == (255, 255, 255) for image, _ in drawn)


def test_a_type_or_a_name_with_none_is_left_alone():
    values = {"image": torch.zeros(2, 3, 4, 5), "table": torch.arange(3)}
    by_name = drawn_with(
        lambda image, table: table.tolist(), ["image", "table"], values, unpack_functions_for_input_name={"table": None}
    )
    assert by_name == [[0, 1, 2], [0, 1, 2]]
    unpack = {**UNPACK_TENSORS_TO_NDARRAYS, torch.Tensor: None}
    items = drawn_with(
        lambda item, whole: item * len(whole),
        ["items", "whole"],
        {"items": ["a", "b"], "whole": torch.ones(3, 2)},
        unpack_functions_for_type=unpack,
    )
    assert items == ["aaa", "bbb"]


def test_unpacking_by_a_relative_name_holds_in_any_place():
    brick = BrickPerImageVisualization(
        lambda label: label, ["./label"], ["./drawn"], unpack_functions_for_input_name={"./label": lambda t: t.tolist()}
    )
    collection = BrickCollection({"head0": {"draw": brick}, "head1": {"draw": brick}})
    outputs = collection({"head0/label": torch.tensor([1]), "head1/label": torch.tensor([2, 3])}, return_inputs=False)
    assert outputs == {"head0/drawn": [1], "head1/drawn": [2, 3]}


def test_several_outputs_are_lists_by_name():
    brick = BrickPerImageVisualization(lambda x: (x[0], -x[0]), ["x"], ["plus", "minus"])
    assert brick({"x": torch.tensor([1, 2])}) == {"plus": [1, 2], "minus": [-1, -2]}


def test_a_function_may_draw_for_its_effect_only():
    seen = []
    assert BrickPerImageVisualization(lambda x: seen.append(int(x[0])), ["x"], [])({"x": torch.tensor([1, 2])}) == {}
    assert seen == [1, 2]


def test_an_empty_batch_draws_nothing():
    assert drawn_with(lambda image: image, ["image"], {"image": torch.zeros(0, 3, 4, 5)}) == []


def test_a_function_with_another_number_of_outputs_is_refused_with_the_brick():
    collection = BrickCollection({"draw": BrickPerImageVisualization(lambda x: (1, 2, 3), ["x"], ["a", "b"])})
    with pytest.raises(BrickGraphError, match=r"'draw'.*3 values"):
        collection({"x": torch.zeros(2)})


def test_inputs_of_different_batch_sizes_are_refused_with_each_size():
    values = {"image": torch.zeros(2, 3, 4, 5), "label": torch.zeros(3)}
    with pytest.raises(BrickInputError, match="Batch size is not the same for all inputs") as caught:
        drawn_with(lambda image, label: image, ["image", "label"], values)
    assert "'image': 2" in str(caught.value)
    assert "'label': 3" in str(caught.value)


def test_inputs_that_tell_no_batch_size_are_refused():
    with pytest.raises(BrickInputError, match="Can not estimate batch size"):
        drawn_with(lambda text: text, ["text"], {"text": "text"})


def test_unpacking_for_a_name_that_is_no_input_is_refused_when_the_brick_is_made():
    with pytest.raises(BrickInputError, match=r"\['lable'\]"):
        BrickPerImageVisualization(print, ["label"], ["x"], unpack_functions_for_input_name={"lable": list})


def test_pictures_are_drawn_without_gradients():
    collection = BrickCollection(
        {
            "linear": BrickModule(nn.Linear(2, 2), ["x"], ["y"]),
            "draw": BrickPerImageVisualization(lambda y: y, ["y"], ["drawn"], UNPACK_NO_CONVERSION),
            "numpy": BrickPerImageVisualization(lambda y: y.sum(), ["y"], ["sums"]),
        }
    )
    outputs = collection({"x": torch.ones(3, 2)})
    assert outputs["y"].requires_grad
    np.testing.assert_allclose(outputs["sums"], outputs["y"].detach().sum(dim=1).numpy(), rtol=1e-6)


def test_a_visualization_runs_under_its_tag_and_prints_its_function():
    brick = BrickPerImageVisualization(print, ["x"], ["y"])
    assert brick.callable is print
    assert repr(brick) == (
        "BrickPerImageVisualization(print, input_names=['x'], output_names=['y'], tags={'VISUALIZATION'})"
    )
