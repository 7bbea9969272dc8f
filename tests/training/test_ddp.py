"""Two DDP processes on gloo, one of which has no label for a task."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed

from brickyard import create_model


def _train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = create_model("test_resnet_cls_seg_det", num_classes={"cls": 3, "seg": 2, "det": 2})
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    batch = {
        "image": torch.rand(2, 3, 64, 64),
        "targets/cls": torch.tensor([0, 2]),
        "targets/seg": torch.randint(0, 2, (2, 64, 64)),
        "targets/det": [{"boxes": torch.tensor([[4.0, 4.0, 40.0, 30.0]]), "labels": torch.tensor([1])}] * 2,
        **{f"labelled/{task}": torch.tensor([rank == 0] * 2) for task in ("seg", "det")},
    }
    outputs = parallel(batch, tags={"MODEL", "LOSS"})
    sum(model.extract_losses(outputs).values()).backward()
    torch.save({name: p.grad for name, p in model.named_parameters()}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_a_rank_without_labels_for_a_task_runs_backward_with_the_others(tmp_path: Path) -> None:
    mp.spawn(_train, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(gradient is not None for gradient in first.values())
    for name, gradient in first.items():
        torch.testing.assert_close(gradient, second[name])
    assert first["det.head.model.neck.fpn.layer_blocks.0.0.weight"].abs().sum() > 0
