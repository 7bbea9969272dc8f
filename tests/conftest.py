import pytest
import torch

from brickyard import BrickCollection
from tests.hub.fixtures import hub  # noqa: F401
from tests.toys import tiny_bricks

torch.set_num_threads(1)  # the tests run in as many processes as there are cores


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def collection() -> BrickCollection:
    """The tiny multi-brick model of `toys.tiny_bricks`."""
    return BrickCollection(tiny_bricks())
