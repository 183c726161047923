from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.errors import DataError
from sfumato.evaluation.inception import InceptionV3, load_inception


def filled() -> dict[str, torch.Tensor]:
    """Weights that any machine makes alike: NumPy's legacy generator is frozen."""
    random = np.random.RandomState(0)
    state = InceptionV3().state_dict()
    for name, tensor in sorted(state.items()):
        values = random.uniform(-1, 1, tensor.shape)
        if name.endswith("conv.weight"):
            tensor.copy_(torch.from_numpy(values * (6 / tensor[0].numel()) ** 0.5))
        elif name.endswith(("bn.weight", "running_var")):
            tensor.copy_(torch.from_numpy(1 + values / 2))
        elif tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(values / 10))
    return state


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return filled()


@pytest.fixture(scope="module")
def fidelity_file(state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torch-fidelity's layout: with the classifier and BatchNorm's batch counters."""
    path = tmp_path_factory.mktemp("inception") / "weights-inception.pth"
    torch.save({**state, "fc.weight": torch.ones(1008, 2048), "fc.bias": torch.ones(1008)}, path)
    return path


def test_features_are_torch_fidelity_s(fidelity_file: Path) -> None:
    # Recorded from torch_fidelity 0.4.0's FeatureExtractorInceptionV3 (feature 2048) with these
    # weights and images; it cannot be installed beside this torch, because it imports torchvision.
    images = np.random.RandomState(1).randint(0, 256, (2, 3, 28, 40)).astype(np.uint8)
    features = load_inception(fidelity_file)(torch.from_numpy(images))
    assert features.shape == (2, 2048)
    assert features[0, :2048:256].tolist() == pytest.approx(FIRST, rel=1e-4, abs=1e-5)
    assert features.norm(dim=1).tolist() == pytest.approx(NORMS, rel=1e-4)
    assert (features[0] - features[1]).norm().item() == pytest.approx(APART, rel=1e-3)


FIRST = [6.17293, 0.688646, 0.671405, 0.0358534, 5.45541, 0.0599322, 0.0126175, 3.61001]
NORMS = [292.668, 293.945]
APART = 8.87735


def test_both_published_layouts_give_the_same_network(
    state: dict[str, torch.Tensor], fidelity_file: Path, tmp_path: Path
) -> None:
    # pytorch-fid's file was saved before BatchNorm counted its batches.
    path = tmp_path / "pt_inception.pth"
    kept = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}
    torch.save({**kept, "fc.weight": torch.ones(1008, 2048), "fc.bias": torch.ones(1008)}, path)
    own = load_inception(path).state_dict()
    for name, tensor in load_inception(fidelity_file).state_dict().items():
        assert torch.equal(own[name], tensor), name


def test_wrong_files_are_named_with_what_is_wrong(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(DataError, match="cannot be read: No such file"):
        load_inception(path)
    path.write_bytes(b"no weights")
    with pytest.raises(DataError, match="not a file of tensors"):
        load_inception(path)
    torch.save([1, 2], path)
    with pytest.raises(DataError, match="not a table"):
        load_inception(path)
    small = {name: x for name, x in state.items() if name.startswith("Conv2d")}
    torch.save(small, path)
    with pytest.raises(DataError, match=r"Mixed_5b\.branch1x1\.conv\.weight is missing"):
        load_inception(path)
    torch.save({**small, "Conv2d_1a_3x3.conv.weight": torch.zeros(32, 1, 3, 3)}, path)
    with pytest.raises(DataError, match=r"\(32, 1, 3, 3\), not \(32, 3, 3, 3\)"):
        load_inception(path)


class Intruder:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(MARK),)  # type: ignore[return-value]


MARK = "intruder-was-here"


def test_pickled_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"Conv2d_1a_3x3.conv.weight": Intruder()}, protocol=2))
    with pytest.raises(DataError, match="not a file of tensors"):
        load_inception(path)
    assert not Path(MARK).exists()
