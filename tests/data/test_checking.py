import pytest

from brickyard import BrickInputError, open_data
from brickyard.data.checking import checked_subset


class Numbers:
    """Samples 0, 1, ..., of which some are bad."""

    def __init__(self, count, bad=()):
        self.labels, self.kinds = {"cls": ("a",)}, {}
        self.count, self.bad, self.checked = count, set(bad), []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": range(self.count)[index]}

    def check(self, index):
        self.checked.append(index)
        if index in self.bad:
            raise BrickInputError(f"{index}.txt, line 7", "a class from 0 to 2", "3" * 5000)
        return index % 2


def test_good_data_is_returned_as_it_is():
    data = Numbers(5)
    assert checked_subset(data, None, "numbers", skip_bad=False) is data
    assert data.checked == [0, 1, 2, 3, 4]


def test_only_the_samples_that_are_used_are_checked():
    data = Numbers(5, bad=[3])
    subset = checked_subset(data, 3, "numbers", skip_bad=False)
    assert data.checked == [0, 1, 2]
    assert [subset[index]["image"] for index in (0, 1, 2, -1)] == [0, 1, 2, 2]
    with pytest.raises(IndexError):
        subset[3]
    assert (subset.labels, subset.kinds) == (data.labels, data.kinds)


def test_all_problems_are_reported_together_and_bounded():
    with pytest.raises(BrickInputError) as caught:
        checked_subset(Numbers(100, bad=range(10, 90)), None, "numbers", skip_bad=False)
    text = str(caught.value)
    assert text.startswith(
        "numbers: expected 100 images with their labels, found 80 bad:\n  - 10.txt, line 7: expected"
    )
    assert "\n  - 29.txt, line 7:" in text
    assert "30.txt" not in text
    assert "... and 60 more" in text
    assert "--skip-bad" in text
    assert len(text) < 10_000


def test_a_single_problem_is_the_error():
    with pytest.raises(
        BrickInputError, match=r"^4\.txt, line 7: expected a class from 0 to 2, found 3+( \.\.\. 3+)?\. .*--skip-bad"
    ):
        checked_subset(Numbers(100, bad=[4]), None, "numbers", skip_bad=False)


def test_bad_samples_are_left_out_with_a_count(caplog):
    subset = checked_subset(Numbers(10, bad=[0, 4, 9]), None, "numbers", skip_bad=True)
    assert [subset[index]["image"] for index in range(len(subset))] == [1, 2, 3, 5, 6, 7, 8]
    assert "numbers: left out 3 of 10 samples:\n  - 0.txt, line 7" in caplog.text


@pytest.mark.parametrize(("count", "bad", "skip_bad"), [(0, [], False), (0, [], True), (3, [0, 1, 2], True)])
def test_data_without_a_good_sample_is_refused(count, bad, skip_bad):
    with pytest.raises(BrickInputError, match=r"numbers: expected one (image|good sample) or more"):
        checked_subset(Numbers(count, bad), None, "numbers", skip_bad=skip_bad)


def test_objects_that_are_too_small_for_a_box_are_counted(caplog):
    checked_subset(Numbers(5), None, "numbers", skip_bad=False)
    assert "numbers: 2 objects have no box, because a side would be shorter than one pixel." in caplog.text
    caplog.clear()
    checked_subset(Numbers(1), None, "numbers", skip_bad=False)
    assert not caplog.records


def test_help_of_open_data_has_the_layout_of_every_format():
    for text in ("coco:FOLDER", "_annotations.coco.json", "yolo:FOLDER", "labels/<split>/a.txt", "voc:FOLDER"):
        assert text in open_data.__doc__
    for text in ("ImageSets/Main/<split>.txt", "imagefolder:FOLDER", "<split>/<class>/", "pets:FOLDER"):
        assert text in open_data.__doc__
