"""A backbone of a user's own: a small CNN, registered as a part when this module is imported."""

from torch import nn

from brickyard import register_part


@register_part("plain_cnn")
class SmallCNN(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.deepest = nn.Sequential(nn.Conv2d(2 * width, 4 * width, 3, 2, 1), nn.ReLU())

    def forward(self, image):
        fine = self.stem(image)
        middle = self.deep(fine)
        coarse = self.deepest(middle)
        return (fine, middle, coarse), coarse.mean((2, 3))
