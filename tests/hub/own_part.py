"""A part of a user's own, as it stands in a package of theirs: importing it registers it."""

from torch import Tensor, nn

from brickyard import register_part


@register_part("scaled_linear")
class ScaledLinear(nn.Module):
    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        self.scale = scale

    def forward(self, value: Tensor) -> Tensor:
        return self.linear(value) * self.scale
