import pytest

from brickyard import BrickInputError, UnknownNameError
from brickyard.inference.jobs import predict_rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_size": 0}, "shard_size: expected 1 or more, found 0"),
        ({"workers": -1}, "workers: expected 0 or more"),
        ({"actors": 0}, "actors: expected 1 or more"),
        ({"kind": "csv"}, "Unknown kind 'csv'"),
        ({"engine": "Ray"}, "Unknown engine 'Ray'. Did you mean 'ray'"),
    ],
)
def test_invalid_options_are_errors_before_anything_is_written(options, message, tmp_path):
    with pytest.raises((BrickInputError, UnknownNameError), match=message):
        predict_rows("test_resnet_cls", str(tmp_path), tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []
