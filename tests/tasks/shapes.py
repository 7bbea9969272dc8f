"""Four images of colored right-angled triangles with their masks and corners, for tasks with a label per object."""

import torch

from brickyard import BrickCollection, create_model
from brickyard.core.specs import KeypointSpec
from brickyard.parts.instances.targets import PadInstances

CORNERS = KeypointSpec(("top left", "bottom left", "bottom right"), skeleton=((0, 1), (1, 2), (2, 0)))
LABELS = ["red", "green", "blue"]
ENTRIES = {"inst": ["masks"], "pose": ["keypoints"], "pose-masks": ["masks", "keypoints"]}
_COLORS = torch.tensor([[1.0, 0.1, 0.1], [0.1, 1.0, 0.1], [0.1, 0.1, 1.0]])
_TRIANGLES = [  # of each image: (x1, y1, x2, y2) and a class
    [((4, 50, 40, 86), 0), ((62, 4, 92, 34), 1)],
    [((20, 8, 52, 30), 1), ((48, 52, 90, 90), 2)],
    [((8, 24, 34, 70), 2)],
    [((50, 12, 80, 60), 0), ((6, 58, 42, 92), 1)],
]


def head_of(token: str) -> str:
    return token.partition("-")[0]


def model_of(token: str, backbone: str = "test_resnet", **options) -> BrickCollection:
    torch.manual_seed(0)
    points = {"keypoints": CORNERS} if head_of(token) == "pose" else {}
    return create_model(f"{backbone}_{token}", labels=LABELS, **points, **options)


def triangles(token: str, size: int = 96) -> dict:
    """A batch with the labels of a head."""
    torch.manual_seed(0)
    image = 0.2 * torch.rand(4, 3, size, size)
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    targets = []
    for index, objects in enumerate(_TRIANGLES):
        masks, points = [], []
        for (x1, y1, x2, y2), label in objects:
            masks.append((x >= x1) & (y < y2) & ((x - x1) * (y2 - y1) < (y - y1) * (x2 - x1)))
            image[index][:, masks[-1]] = _COLORS[label][:, None]
            points.append([[x1, y1, 2], [x1, y2, 2], [x2, y2, 1]])
        boxes, labels = zip(*objects, strict=True)
        entries = {"masks": torch.stack(masks).to(torch.uint8), "keypoints": torch.tensor(points).float()}
        targets.append({
            "boxes": torch.tensor(boxes, dtype=torch.float32),
            "labels": torch.tensor(labels),
            **{name: entries[name] for name in ENTRIES[token]},
        })  # fmt: skip
    return {"image": image, f"targets/{head_of(token)}": targets}


def padded(batch: dict, token: str) -> dict:
    target = f"targets/{head_of(token)}"
    values = PadInstances(len(LABELS), ENTRIES[token])(batch[target], batch["image"])
    return {**batch, target: dict(zip(("boxes", "labels", *ENTRIES[token]), values, strict=True))}
