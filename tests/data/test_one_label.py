import pytest
import torch

from brickyard import LabelKind, UnknownNameError
from brickyard.data.one_label import OneLabel


class Photos:
    def __init__(self):
        self.labels = {"age": ("years",), "seg": ("sky", "sea"), "segments": ("a",)}
        self.kinds = {"age/years": LabelKind.CLASS_INDEX, "seg": LabelKind.MASK, "segments": LabelKind.MASK}

    def __len__(self):
        return 2

    def __getitem__(self, index):
        sample = {"image": torch.full((3, 4, 4), index), "file": f"{index}.png", "targets/age/years": 7}
        return {**sample, "targets/seg": index, "targets/segments": 0} if index else sample


def test_a_label_gets_the_name_of_the_head_and_the_others_are_left_out():
    data = OneLabel(Photos(), "seg", "parts")
    assert (data.labels, data.kinds) == ({"parts": ("sky", "sea")}, {"parts": LabelKind.MASK})
    assert [list(data[index]) for index in range(len(data))] == [
        ["image", "file"],
        ["image", "file", "targets/parts"],
    ]


def test_the_parts_of_a_label_are_renamed_with_it():
    data = OneLabel(Photos(), "age", "person")
    assert data.kinds == {"person/years": LabelKind.CLASS_INDEX}
    assert data[0]["targets/person/years"] == 7


def test_a_label_that_the_data_lacks_is_refused():
    with pytest.raises(UnknownNameError, match=r"Unknown label 'segm'\. Did you mean 'seg"):
        OneLabel(Photos(), "segm", "parts")
