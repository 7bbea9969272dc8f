"""Models to push and pull, and what to compare of them."""

import torch
from huggingface_hub import constants

from brickyard import create_model

REPO = "owner/model"
TASKS = {"cls": 3, "seg": 4, "det": 5}
IMAGE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
OUTPUTS = ("cls/logits", "seg/logits", "det/boxes", "det/scores", "det/labels")


def small(labels=("a", "b", "c"), seed=0):
    torch.manual_seed(seed)
    return create_model("test_resnet_cls", labels=list(labels))


def three_tasks():
    return create_model("test_resnet_cls_seg-lraspp_det", num_classes=TASKS)


def run(model, outputs=("cls/logits",)):
    with torch.no_grad():
        return model.eval()({"image": IMAGE}, outputs=list(outputs))


def assert_equal(left, right, outputs=("cls/logits",)):
    left, right = run(left, outputs), run(right, outputs)
    assert all(torch.equal(left[name], right[name]) for name in outputs)


def train(model, *paths):
    """Change the weights of some bricks."""
    with torch.no_grad():
        for path in paths:
            for parameter in model[path].parameters():
                parameter.add_(0.5)


def cold(monkeypatch, folder):
    """From here on, with nothing in the cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))


def size_of(model, path):
    return model[path].provenance.config["weights"]["size"]


def weights_up(seen):
    return {request.path.rpartition("/")[2]: request.up for request in seen.matching("/lfs/*", method="PUT")}
