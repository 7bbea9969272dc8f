"""A training on several data sets: its gradients are those of a hand-written loop, and it resumes exactly."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from brickyard import BrickCollection, LabelKind, MixedData, OneLabel, create_model
from brickyard.data.batches import TrainingOrder
from brickyard.data.collate import collate
from brickyard.training.config import TrainingConfig
from brickyard.training.fit import fit


class Noise:
    """Random images with a class; `stop_at` raises at the read of this number, counted from 1."""

    kinds: ClassVar[dict[str, LabelKind]] = {"cls": LabelKind.CLASS_INDEX}

    def __init__(self, seed: int, length: int, classes: int, stop_at: int | None = None) -> None:
        self.seed, self.length, self.classes, self.stop_at, self.read = seed, length, classes, stop_at, 0
        self.labels = {"cls": tuple(f"{seed}.{index}" for index in range(classes))}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read += 1
        if self.read == self.stop_at:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(100 * self.seed + index)
        image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator)
        return {"image": image, "targets/cls": torch.tensor(index % self.classes)}


def data(stop_at: int | None = None) -> MixedData:
    return MixedData(
        [OneLabel(Noise(1, 6, 2), "cls", "coco"), OneLabel(Noise(2, 9, 3, stop_at), "cls", "lane")], ratio=(1, 2)
    )


def model() -> BrickCollection:
    torch.manual_seed(0)
    return create_model(
        backbone="test_resnet",
        tasks={"coco": "cls", "lane": "cls"},
        labels={head: list(names) for head, names in data().labels.items()},
    )


def test_gradients_are_those_of_a_loop_over_the_union() -> None:
    mixture, trained, by_hand = data(), model().train(), model().train()
    samples = [mixture[draw.item] for draw in next(iter(TrainingOrder(mixture, 6, 1)))]
    batch = collate(samples, mixture.kinds)
    assert sorted(batch["labelled/coco"].tolist()) == [False] * 4 + [True] * 2
    torch.stack(list(trained.extract_losses(trained(batch)).values())).sum().backward()

    logits = by_hand(
        {"image": torch.stack([sample["image"] for sample in samples])}, outputs=["coco/logits", "lane/logits"]
    )
    losses = []
    for head in ("coco", "lane"):
        rows = [row for row, sample in enumerate(samples) if f"targets/{head}" in sample]
        targets = torch.stack([samples[row][f"targets/{head}"] for row in rows])
        losses.append(cross_entropy(logits[f"{head}/logits"][rows], targets))
    sum(losses).backward()
    expected = dict(by_hand.named_parameters())
    for name, parameter in trained.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, msg=name)


def test_a_batch_of_one_data_set_trains_only_its_head() -> None:
    part = data().datasets[0]
    batch = next(iter(DataLoader(part, batch_size=4, collate_fn=lambda samples: collate(samples, part.kinds))))
    trained = model().train()
    losses = trained.extract_losses(trained(batch, skip_missing=True))
    assert set(losses) == {"coco/loss"}


@pytest.mark.parametrize("stop_at", [3, 7])
def test_an_interrupted_training_resumes_with_the_same_results(tmp_path: Path, stop_at: int) -> None:
    config = TrainingConfig(steps=4, batch_size=3, every=2, save_every=1, monitor="lane/Accuracy")
    whole = model()
    fit(whole, data(), data(), tmp_path / "whole", config)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(model(), data(stop_at), data(), tmp_path / "parts", config)
    resumed = model()
    fit(resumed, data(), data(), tmp_path / "parts", config, resume=True)
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())
    assert (tmp_path / "parts" / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()
