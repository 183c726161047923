from __future__ import annotations

from pathlib import Path

import pytest

from sfumato.release.verification import metrics

FORMAT = Path(__file__).parents[3] / "docs" / "certificate.md"
(SCORE,) = metrics._SHAPE["utility"]


FIELDS = list(metrics._SHAPE)


@pytest.mark.parametrize("name", [metrics.PART, *FIELDS, *SCORE, *metrics._SHAPE["frechet?"]])
def test_every_field_of_published_metrics_is_documented(name: str) -> None:
    _, _, section = FORMAT.read_text(encoding="utf-8").partition("## Published metrics")
    assert f"`{name.removesuffix('?')}`" in section.partition("\n## ")[0]
