from __future__ import annotations

import math
import re

from sfumato.evaluation.literature import published, published_on


def test_every_row_is_a_sane_table_row_with_a_citation() -> None:
    for row in published():
        assert len(row.epsilon) == len(row.accuracy) == len(row.fid) > 0
        assert list(row.epsilon) == sorted(set(row.epsilon))
        assert all(0 < share < 100 for share in row.accuracy if not math.isnan(share))
        assert all(fid > 0 for fid in row.fid if not math.isnan(fid))
        assert re.search(r"arXiv \d{4}\.\d{5}", row.source.cite)
        assert row.source.protocol
        assert row.classifier
    assert {row.data for row in published()} == {"fashion-mnist", "mnist", "cifar10"}


def test_no_row_stands_there_twice() -> None:
    keys = [(row.data, row.method, row.source.key, row.classifier) for row in published()]
    assert len(keys) == len(set(keys))


def test_figures_are_found_at_exactly_their_epsilon() -> None:
    (row,) = [r for r in published_on("fashion-mnist") if r.method == "DP-FETA"]
    assert row.accuracy_at(1.0) == 81.7
    assert row.fid_at(10.0) == 13
    assert row.accuracy_at(2.0) is None
    (merf,) = [r for r in published_on("fashion-mnist") if r.method == "DP-MERF"]
    assert merf.fid_at(1.0) is None  # not reported
    (authors,) = [
        r for r in published_on("mnist") if (r.method, r.classifier) == ("DPDM", "logistic")
    ]
    assert authors.accuracy_at(0.2) == 81.0


def test_second_hand_figures_say_so() -> None:
    assert {row.method for row in published() if not row.checked} == {"DP-MEPF"}
