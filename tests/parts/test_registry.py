import pytest
from torch import nn

from brickyard import UnknownNameError, create_part, register_part
from brickyard.parts import registry


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


def test_a_registered_class_is_made_by_name_and_remembers_how():
    @register_part("test_scale")
    class Scale(nn.Module):
        def __init__(self, factor: float = 1.0) -> None:
            super().__init__()
            self.factor = factor

    part = create_part("test_scale", factor=2.0)
    assert type(part) is Scale
    assert part.factor == 2.0
    assert registry.part_of(part) == registry.Part("test_scale", {"factor": 2.0})


def test_a_registered_function_makes_a_part():
    register_part("test_linear")(lambda width: nn.Linear(width, width))
    assert create_part("test_linear", width=3).in_features == 3


def test_the_decorator_gives_back_what_it_registers():
    def factory() -> nn.Module:
        return nn.Identity()

    assert register_part("test_identity")(factory) is factory
    assert register_part("test_identity")(factory) is factory  # a module that is imported twice


def test_a_name_that_is_taken_is_refused():
    register_part("test_taken")(nn.Identity)
    with pytest.raises(ValueError, match="'test_taken' is registered already"):
        register_part("test_taken")(nn.Linear)
    assert type(create_part("test_taken")) is nn.Identity


def test_an_unknown_part_names_the_nearest():
    register_part("test_pooling")(nn.Identity)
    with pytest.raises(UnknownNameError, match=r"Unknown part 'test_poling'. Did you mean 'test_pooling'"):
        create_part("test_poling")


def test_what_was_made_otherwise_has_no_record():
    assert registry.part_of(nn.Identity()) is None
    assert registry.part_of("text") is None
