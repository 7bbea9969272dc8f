import pytest
import torch

from brickyard import BrickCollection
from tests.hub.fixtures import hub  # noqa: F401
from tests.toys import tiny_bricks

torch.set_num_threads(1)  # the tests run in as many processes as there are cores


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--first-case", action="store_true", help="run each parametrized test with its first values only")


@pytest.hookimpl(trylast=True)  # after the selection by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("first_case"):
        return
    first: dict[tuple[object, str], pytest.Item] = {}
    for item in items:
        first.setdefault((item.parent, item.name.partition("[")[0]), item)
    kept = set(first.values())
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def collection() -> BrickCollection:
    """The tiny multi-brick model of `toys.tiny_bricks`."""
    return BrickCollection(tiny_bricks())
