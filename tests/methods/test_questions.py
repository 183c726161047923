"""docs/proofs/ledger.md: what a query says of itself determines what it asks."""

from __future__ import annotations

import json
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.methods import method_names
from sfumato.privacy import Budget, Curator, SumQuery
from sfumato.privacy.plan import questions_of

SPEC = PublicSpec(28, 28, 1, ("a", "b", "c"), declared_size=200)
WORDS = {"loss": "two-batch", "bound": "clip", "warm_up": "central"}
FREE = {
    "mepf": "steps batch learning_rate loss moving_average class_weight noise_aware width "
    "seed_public",
    "guided": "kept matched matching_steps views pull_steps sampling_steps length moment_weight "
    "mirrored start_noise seed_public",
    "merf": "steps batch learning_rate width latent average",
    "ntk": "steps batch learning_rate width latent average",
}
"""The settings of each method that may change after its one answer was paid for."""

BUDGET = Budget(10.0, 1e-5)


def changed(field: Field[Any], value: Any) -> Any:
    """Another value of a setting."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 * value or 1
    if isinstance(value, float):
        return value * 0.9
    if isinstance(value, tuple):
        return value[:-1] if "..." in field.type else value[::-1]
    if value is None:
        return 7.0 if "float" in field.type else 7
    return WORDS.get(field.name)


def asked(method: Any) -> tuple[str, list[bytes]]:
    """What a plan would be charged for, and the bits that public images would contribute."""
    queries = method.queries(SPEC)
    plan = {
        "budget": BUDGET.to_dict(), "spec": SPEC.to_dict(), "events": [],
        "queries": [query.to_dict() for query in queries],
        "method": {"name": method.name, "config": method.config()},
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 1, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0])
    with torch.inference_mode():
        bits = [
            query.values(images, labels).numpy().tobytes()
            for query in queries
            if isinstance(query, SumQuery)
        ]
    return json.dumps(questions_of(plan), sort_keys=True), bits


@pytest.mark.parametrize("name", method_names())
def test_a_setting_changes_the_question_or_nothing_that_a_record_contributes(
    name: str, methods: dict[str, Any]
) -> None:
    method = methods[name]
    question, bits = asked(method)
    if any(not isinstance(query, SumQuery) for query in method.queries(SPEC)):
        assert json.loads(question)["method"]["config"] == method.config()
        return
    afterwards = set()
    for field in fields(method):
        if field.name.startswith("public") and field.name != "public_steps":
            continue
        value = changed(field, getattr(method, field.name))
        if value is None:
            continue
        try:
            other, other_bits = asked(replace(method, **{field.name: value}))
        except UsageError:
            continue  # this one alone cannot be changed
        if other == question:
            afterwards.add(field.name)
            assert other_bits == bits, field.name
    assert afterwards == set(FREE.get(name, "").split())


def test_mepf_killed_in_training_goes_on_with_other_settings_and_is_charged_once(
    small_mepf: Any, digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    asked = []
    honest = Curator.sum

    def noted(self: Curator, name: str) -> Any:
        asked.append(honest(self, name))
        return asked[-1]

    monkeypatch.setattr(Curator, "sum", noted)
    with monkeypatch.context() as patch, Curator(digits, BUDGET, state=state, quiet=True) as first:
        patch.setattr("sfumato.methods.mepf.matching.Matching.run", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            small_mepf().fit(first)
    with Curator(digits, BUDGET, state=state, quiet=True) as second:
        model = small_mepf(steps=2, width=8, seed_public=5).fit(second)
        record = second.record()
        second.close()
    assert asked[0].total.tobytes() == asked[1].total.tobytes()
    assert record["data_set_total"]["runs"] == 1
    assert record["method"]["config"]["steps"] == 2 and model.generator.width == 8
