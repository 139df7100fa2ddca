"""Mlp: a small network, about 30 µs for one row, where the server costs more than the model."""

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    """x FP32 [n, 64] → y FP32 [n, 10] through two hidden layers of 256. Weights come from a fixed seed."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y
