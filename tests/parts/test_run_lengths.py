import numpy as np
import pytest

from brickyard.parts import run_lengths


def by_hand(counts):
    """Decode COCO's compressed counts: 5 bits a character, the sixth for more, differences from the third on."""
    numbers, value, shift = [], 0, 0
    for character in counts.encode():
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value |= -1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value = shift = 0
    return numbers


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_counts_are_the_lengths_of_runs_down_the_columns(share):
    pixels = np.random.default_rng(0).random((50, 70)) < share
    encoded = run_lengths.encode(pixels)
    assert encoded["size"] == [50, 70]
    counts = by_hand(encoded["counts"])
    values = np.repeat(np.arange(len(counts)) % 2, counts).astype(bool)
    assert np.array_equal(values.reshape(70, 50).T, pixels)
    assert np.array_equal(run_lengths.decode(encoded), pixels)
