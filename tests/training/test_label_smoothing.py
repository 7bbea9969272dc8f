import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from brickyard import BrickCollection, BrickInputError
from brickyard.parts.losses import CrossEntropy
from brickyard.parts.segmentation import SegmentationLoss
from brickyard.training.config import TrainingConfig
from brickyard.training.fit import fit
from tests.runs import Rectangles, small_model


@pytest.mark.parametrize("amount", [0.0, 0.1])
def test_the_smoothed_losses_are_those_of_torch_over_what_is_labelled(amount: float) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 2, 1, 7])
    labelled = torch.tensor([True, True, True, False])
    expected = cross_entropy(logits[:3], target[:3], label_smoothing=amount)
    torch.testing.assert_close(CrossEntropy(amount)(logits, target, labelled), expected)
    torch.testing.assert_close(CrossEntropy(amount)(logits[:3], target[:3]), expected)
    maps, mask = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    mask[0, :2] = 255
    expected = cross_entropy(maps, mask, ignore_index=255, label_smoothing=amount)
    torch.testing.assert_close(SegmentationLoss(label_smoothing=amount)(maps, mask), expected)


def test_label_smoothing_is_stored_with_the_losses_and_kept_until_it_is_set_again(tmp_path: Path) -> None:
    model, data = small_model("test_resnet_cls_seg-lraspp"), Rectangles(2)
    stored = []
    for name, amount in (("none", None), ("smooth", 0.1), ("kept", None), ("reset", 0.0)):
        options = TrainingConfig(steps=1, batch_size=2, every=1, label_smoothing=amount)
        fit(model, data, data, tmp_path / name, options)
        model = BrickCollection.from_pretrained(tmp_path / name / "last")
        stored.append([model[path].formula for path in ("cls/loss", "seg/loss")])
        if name == "none":
            assert "label_smoothing" not in (tmp_path / name / "last" / "cls" / "loss.json").read_text()
    plain = ["cross-entropy", "cross-entropy + 1.0 * Dice"]
    smooth = [text.replace("cross-entropy", "cross-entropy with label smoothing 0.1") for text in plain]
    assert stored == [plain, smooth, smooth, plain]
    losses = [
        json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[0])["train/cls/loss"]
        for name in ("kept", "reset")
    ]
    assert losses[0] != losses[1]


def test_a_model_without_a_cross_entropy_is_an_error_and_no_run_is_started(tmp_path: Path) -> None:
    model, data = small_model("test_resnet_det-ssdlite"), Rectangles(2)
    with pytest.raises(BrickInputError, match="label_smoothing: expected a head with a cross-entropy, cls or seg"):
        fit(model, data, data, tmp_path / "run", TrainingConfig(label_smoothing=0.1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("amount", [-0.1, 1.0])
def test_an_amount_out_of_range_is_an_error(amount: float) -> None:
    with pytest.raises(BrickInputError, match=r"label_smoothing: expected a fraction in \[0, 1\)"):
        TrainingConfig(label_smoothing=amount)
