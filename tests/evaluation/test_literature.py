from __future__ import annotations

import math
import re

from sfumato.evaluation.literature import Published, published, published_on


def test_every_row_is_a_sane_table_row_with_a_citation() -> None:
    for row in published():
        assert len(row.epsilon) == len(row.accuracy) == len(row.fid) > 0
        assert list(row.epsilon) == sorted(set(row.epsilon))
        assert all(0 < share < 100 for share in row.accuracy if not math.isnan(share))
        assert all(fid > 0 for fid in row.fid if not math.isnan(fid))
        assert re.search(r"arXiv \d{4}\.\d{5}", row.source.cite)
        assert row.source.protocol
        assert re.fullmatch(r"20\d\d(-\d\d)?", row.source.date)
        assert row.classifier
        assert row.needs in ("none", "GPU", "public images", "GPU, public images")
    data = {"fashion-mnist", "mnist", "cifar10", "celeba-gender", "camelyon"}
    assert {row.data for row in published()} == data


def test_no_row_stands_there_twice() -> None:
    keys = [(row.data, row.method, row.source.key, row.classifier) for row in published()]
    assert len(keys) == len(set(keys))


def test_figures_are_found_at_exactly_their_epsilon() -> None:
    def row(data: str, method: str, source: str, classifier: str = "CNN-type") -> Published:
        (found,) = [
            r
            for r in published_on(data)
            if (r.method, r.source.key, r.classifier) == (method, source, classifier)
        ]
        return found

    feta = row("fashion-mnist", "DP-FETA", "dpimagebench")
    assert feta.accuracy_at(1.0) == 81.7
    assert feta.accuracy_at(2.0) is None
    older = row("fashion-mnist", "DP-FETA", "dpimagebench-2025")
    assert older.fid_at(10.0) == 13
    assert older.accuracy_at(1.0) is None  # one figure a method and budget: the newer table's
    merf = row("fashion-mnist", "DP-MERF", "dpimagebench-2025")
    assert merf.fid_at(1.0) is None  # not reported
    assert row("mnist", "DPDM", "dpdm", "logistic").accuracy_at(0.2) == 81.0
    assert row("cifar10", "FETA-Pro", "dpimagebench").fid_at(1.0) == 121


def test_an_epsilon_that_does_not_hold_is_marked() -> None:
    marked = {"PrivImage", "FETA-Pro", "DP-FETA", "DP-Kernel", "DataLens"}
    assert marked == {r.method for r in published_on("fashion-mnist") if r.caveat} - {
        "PDP-Diffusion",
        "DP-LDM",
        "DP-LoRA",
        "Private Evolution",
    }


def test_second_hand_figures_say_so() -> None:
    assert {row.method for row in published() if not row.checked} == {"DP-MEPF", "NDPDC"}
