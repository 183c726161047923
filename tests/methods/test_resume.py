"""Every method: a run that is killed, wherever that is, goes on to the same model at one charge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sfumato.methods.registry import BUILT_IN
from sfumato.methods.training import Training
from sfumato.privacy import Budget, Curator

BUDGET = Budget(epsilon=10.0, delta=1e-5)
ASKS = ("sum", "histogram", "nearest", "gradient", "aggregate", "pull_back", "vote")


class Killed(BaseException):
    """Stands for a kill, which no handler sees."""


@pytest.fixture(scope="session")
def stepwise(
    methods,
    small_dpdm,
    small_dpgan,
    small_dpaf,
    public_dpaf,
    small_datalens,
    small_guided,
    public_denoiser,
):
    """Every method, with as many kinds of phases and queries as it has."""
    network = {"kind": "network", "teachers": 6, "stochastic": True}
    return {
        **methods,
        "dpdm": small_dpdm(
            steps=4, warm_up="moments", warm_up_steps=3, finetune="adapters", rank=1
        ),
        "dpgan": small_dpgan(steps=5),
        "dpaf": small_dpaf(steps=5, first_layer="private"),
        "dpaf, public": public_dpaf(steps=2, batch=300),
        "datalens": small_datalens(steps=5),
        "dp-sgd, compressed": replace(methods["dp-sgd"], compress=True, stochastic=True),
        "guided": small_guided(public_model=public_denoiser),
        "datalens, networks": small_datalens(steps=5, **network),
    }


@pytest.fixture
def run(monkeypatch):
    """Fit a method; killed at the moment of a number, if there is one.

    Moments are the beginning of each training step and the end of each answer. Returns model and
    record, and the number of moments.
    """
    for module in ("methods.training", "privacy.answering.vote"):
        monkeypatch.setattr(f"sfumato.{module}.SAVED_EVERY", 2)
    # Another run may find another engine to be the fastest; its sums differ in their last bits.
    monkeypatch.setattr(
        "sfumato.privacy.answering.sampled.engine_that_fits", lambda *_: ("layers", 64)
    )

    def fitted(method, source, state, stop=None):
        passed = []

        def moment():
            if len(passed) == stop:
                raise Killed
            passed.append(None)

        def watched(true):
            def ask(self, *args):
                answer = true(self, *args)
                moment()
                return answer

            return ask

        def train(self, what, steps, advance, saved=None):
            def step(number):
                moment()
                advance(number)

            return true_run(self, what, steps, step, saved)

        true_run = Training.run
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Training, "run", train)
            for name in ASKS:
                patch.setattr(Curator, name, watched(getattr(Curator, name)))
            with Curator(source, BUDGET, state=state, quiet=True, insecure_seed=1) as curator:
                model = method.fit(curator)
                record = curator.record()
                curator.close()
        return model, record, len(passed)

    return fitted


@pytest.mark.parametrize(
    "name", [*BUILT_IN, "dpaf, public", "datalens, networks", "dp-sgd, compressed"]
)
def test_a_killed_run_ends_as_an_unbroken_one(name, stepwise, digits, tmp_path, run):
    method = stepwise[name]
    whole, _, moments = run(method, digits, tmp_path / "whole")
    for stop in sorted({moments // 2, moments - 1}):
        state = tmp_path / str(stop)
        with pytest.raises(Killed):
            run(method, digits, state, stop)
        resumed, record, _ = run(method, digits, state)
        for key, value in whole.tensors().items():
            assert np.array_equal(value, resumed.tensors()[key]), (key, stop)
        kinds = [entry["kind"] for entry in record["ledger"]]
        assert kinds == ["plan"] + ["answer"] * len(record["events"])
        assert record["data_set_total"]["runs"] == 1
