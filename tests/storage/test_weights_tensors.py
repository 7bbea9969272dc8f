"""Tensors that the file format, or the layout of one storage, makes difficult."""

import os

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from brickyard import BrickCollection, BrickMismatchError, BrickModule, UnsafeBrickError
from brickyard.storage.tensor_file import read_weights
from brickyard.storage.weights import assign_weights, uninitialised, write_weights
from tests.toys import TinyBackbone, tiny_bricks


def one_brick(module: nn.Module) -> BrickCollection:
    return BrickCollection({"brick": BrickModule(module, ["x"], ["y"])})


def test_weights_in_half_precision_load_into_a_float_module_and_back(collection, tmp_path):
    BrickCollection(tiny_bricks()).half().save_bricks(tmp_path)
    collection.load_bricks(tmp_path)
    stored = load_file(tmp_path / "backbone.safetensors")["conv.weight"]
    assert stored.dtype == torch.float16
    assert collection["backbone"].model.conv.weight.dtype == torch.float32
    assert torch.equal(collection["backbone"].model.conv.weight, stored.float())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.out.weight = self.embed.weight


def test_tied_weights_are_saved_and_stay_tied(tmp_path):
    module, other = Tied(), Tied()
    one_brick(module).save_bricks(tmp_path)
    one_brick(other).load_bricks(tmp_path)
    assert torch.equal(other.embed.weight, module.embed.weight)
    assert other.out.weight is other.embed.weight


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        whole = torch.rand(6, 4)
        for name, view in {
            "whole": whole,
            "row": whole[2],
            "turned": whole.T,
            "wide": whole[:1].expand(3, 4),
            "none": whole[:0],
        }.items():
            self.register_buffer(name, view)


def test_views_of_one_storage_are_saved(tmp_path):
    module = Views()
    one_brick(module).save_bricks(tmp_path)
    stored = load_file(tmp_path / "brick.safetensors")
    assert stored.keys() == module.state_dict().keys()
    assert all(torch.equal(stored[key], value) for key, value in module.state_dict().items())


def test_channels_last_weights_are_saved_in_the_canonical_layout(tmp_path):
    conv = nn.Conv2d(3, 4, 3)
    one_brick(conv).save_bricks(tmp_path / "first")
    one_brick(conv.to(memory_format=torch.channels_last)).save_bricks(tmp_path / "last")
    first, last = ((tmp_path / name / "brick.safetensors").read_bytes() for name in ("first", "last"))
    assert first == last


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"anything": 1}

    def set_extra_state(self, state):
        pass


def test_state_that_is_no_tensor_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(UnsafeBrickError, match="'_extra_state' of Extra is a dict"):
        one_brick(Extra(1, 1)).save_bricks(tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_a_module_that_was_never_initialised_takes_its_weights_from_a_file(tmp_path):
    module = TinyBackbone()
    write_weights(module, tmp_path / "backbone.safetensors")
    with uninitialised():
        other = TinyBackbone()
    assign_weights(other, read_weights(tmp_path / "backbone.safetensors"), "backbone")
    image = torch.rand(1, 3, 4, 4)
    assert torch.equal(other.eval()(image), module.eval()(image))
    assert all(parameter.requires_grad for parameter in other.parameters())


def test_modules_are_initialised_again_afterwards_also_after_an_error():
    with pytest.raises(ZeroDivisionError), uninitialised():
        _ = 1 / 0
    torch.manual_seed(0)
    first = nn.Linear(3, 3)
    torch.manual_seed(0)
    assert torch.equal(first.weight, nn.Linear(3, 3).weight)


def test_training_on_assigned_weights_leaves_the_file_as_it_was(tmp_path):
    file = tmp_path / "linear.safetensors"
    write_weights(nn.Linear(2, 2), file)
    before = file.read_bytes()
    module = nn.Linear(2, 2)
    assign_weights(module, read_weights(file), "linear")
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert file.read_bytes() == before
    assert not torch.equal(module.weight, load_file(file)["weight"])


def test_assigned_weights_keep_the_modules_floating_type(tmp_path):
    write_weights(nn.Linear(2, 2).half(), tmp_path / "linear.safetensors")
    module = nn.Linear(2, 2)
    stored = assign_weights(module, read_weights(tmp_path / "linear.safetensors"), "linear")
    assert stored == {"weight": torch.float16, "bias": torch.float16}
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, load_file(tmp_path / "linear.safetensors")["weight"].float())


def test_weights_that_do_not_fit_are_not_assigned(tmp_path):
    write_weights(nn.Linear(2, 3), tmp_path / "linear.safetensors")
    module = nn.Linear(2, 2)
    before = module.weight.clone()
    with pytest.raises(BrickMismatchError, match="do not fit brick 'head/linear'"):
        assign_weights(module, read_weights(tmp_path / "linear.safetensors"), "brick 'head/linear'")
    assert torch.equal(module.weight, before)
