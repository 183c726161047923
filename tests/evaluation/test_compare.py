from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.evaluation.compare import Compared, cells, columns, plot, to_dict, to_markdown
from sfumato.evaluation.utility import Spread


def one(name: str, method: str, epsilon: float, accuracy: float | None) -> Compared:
    spread = None if accuracy is None else Spread(accuracy, 0.01, 3)
    both = {"add-or-remove-one": epsilon, "replace-one": 2.1 * epsilon}
    return Compared(name, method, 1e-5, "replace-one", both, {"cnn": spread}, 40.0 / epsilon, 0.05)


COMPARED = [
    one("a", "mepf", 1.0, 0.8),
    one("b", "mepf", 10.0, 0.85),
    one("c", "moments", 1.0, None),
]


def test_a_row_shows_both_relations_and_marks_the_budgeted_one() -> None:
    row = dict(zip(columns(COMPARED), cells(COMPARED[0]), strict=True))
    assert row["ε, add/remove"] == "1"
    assert row["ε, replace"] == "2.1*"
    assert row["accuracy, cnn (%)"] == "80.0 ± 1.0"
    assert row["Fréchet distance"] == "40"
    assert COMPARED[0].epsilon == 2.1
    assert "–" in cells(COMPARED[2])


def test_markdown_and_json_are_watermarked_while_private() -> None:
    assert "NOT PRIVATE" in to_markdown(COMPARED, private=True)
    assert "NOT PRIVATE" not in to_markdown(COMPARED, private=False)
    result = json.loads(json.dumps(to_dict(COMPARED, private=True), allow_nan=False))
    assert "NOT PRIVATE" in result["watermark"]
    assert result["releases"][0]["accuracy"]["cnn"]["mean"] == 0.8
    assert result["releases"][2]["accuracy"]["cnn"] is None
    assert "watermark" not in to_dict(COMPARED, private=False)


@pytest.mark.parametrize("private", [True, False])
def test_plot_is_a_picture(tmp_path: Path, private: bool) -> None:
    plot(COMPARED, private, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        image.load()
        assert image.width > 800
        top = np.asarray(image.convert("RGB"))[:25]
    red = (top[..., 0] > 120) & (top[..., 1:] < 80).all(axis=-1)
    assert (red.sum() > 50) == private
