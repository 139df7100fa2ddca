"""ResNet: the topology of ResNet-18 at width 16, about 6 ms for one image on one thread, where the model costs more than the server."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3x3 convolutions and a way around them (He et al. 2015, figure 2)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.around = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return functional.relu(y + self.around(x))


class ResNet(nn.Module):
    """x FP32 [n, 3, 224, 224] → y FP32 [n, 100]. Weights come from a fixed seed."""

    def __init__(self, width: int = 16, classes: int = 100) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(18)
            self.stem = nn.Sequential(nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
            channels = width
            blocks: list[nn.Module] = []
            for stage in range(4):
                for place in range(2):
                    wide = width << stage
                    blocks.append(Block(channels, wide, 2 if stage and not place else 1))
                    channels = wide
            self.blocks = nn.Sequential(*blocks)
            self.head = nn.Linear(channels, classes)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(self.stem(x)).mean((2, 3))
        y: Tensor = self.head(features)
        return y
