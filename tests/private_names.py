"""The private names of dependencies that the tests use, each with the reason; see `test_private_names.py`."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from huggingface_hub import file_download
from huggingface_hub.utils import _http
from torchmetrics import Metric

# Where timm's builder looks up its download: a test that replaces the public `timm.models.load_state_dict_from_hf`
# changes nothing.
TIMM_DOWNLOAD = "timm.models._builder.load_state_dict_from_hf"

# The modules whose `time.sleep` is the wait before the client tries again; it has no setting.
RETRYING = (_http, file_download)


def reductions(metric: Metric) -> dict[str, Any]:
    """How each state of a metric becomes one over several processes; `Metric.metric_state` has the states only."""
    return metric._reductions


def compile_aot_eager(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
    """What `torch.compile(backend="aot_eager")` calls; the public names of backends are no functions."""
    return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)


def overwrite_eps(model: torch.nn.Module, eps: float) -> None:
    """Set the eps of frozen batch norms, as torchvision does for its first weights of RetinaNet."""
    torchvision.models.detection._utils.overwrite_eps(model, eps)
