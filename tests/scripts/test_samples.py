from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

FILE = Path(__file__).parents[2] / "scripts" / "samples.py"


@pytest.fixture(scope="module")
def samples() -> ModuleType:
    spec = importlib.util.spec_from_file_location("samples", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits(samples: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples.ARTEFACTS = tmp_path_factory.mktemp("artefacts")
    samples.make_digits()
    return Path(samples.ARTEFACTS) / "digits"


def test_both_versions_are_good_and_the_second_is_better(samples: ModuleType, digits: Path) -> None:
    x, truth = samples.held_out()
    assert x.shape == (360, 64)
    assert x.max() == 16
    right = []
    for number in (1, 2):
        y = torch.export.load(digits / str(number) / "model.pt2").module()(torch.from_numpy(x))["y"].detach().numpy()
        assert y.shape == (360, 10)
        np.testing.assert_allclose(y.sum(1), 1, atol=1e-5)
        right.append((y.argmax(1) == truth).mean())
    assert 0.93 < right[0] < right[1]
    assert right[1] > 0.97


def test_the_artefact_takes_any_number_of_rows_called_x(digits: Path) -> None:
    program = torch.export.load(digits / "2" / "model.pt2")
    assert program.graph_signature.user_inputs == ("x",)
    for rows in (1, 3, 64):
        assert program.module()(torch.zeros(rows, 64))["y"].shape == (rows, 10)


def test_held_out_digits_are_not_those_of_the_training(samples: ModuleType) -> None:
    train, test, _, _ = samples._split()
    seen = {row.tobytes() for row in train}
    assert sum(row.tobytes() in seen for row in test) == 0
    assert len(train) + len(test) == 1797


def test_photographs_are_cut_from_the_middle(samples: ModuleType) -> None:
    pytest.importorskip("PIL")
    image = samples.photograph("china.jpg")
    assert (image.shape, image.dtype) == ((3, 224, 224), np.float32)
    assert 0 <= image.min() < 50
    assert 200 < image.max() <= 255
