from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn.functional import avg_pool2d

from sfumato.data import LabelledImages
from sfumato.errors import DataError, UsageError
from sfumato.evaluation import Evaluation, evaluate, extractors, render, training
from sfumato.evaluation.classifiers import RECIPES


def tiles(images: torch.Tensor) -> torch.Tensor:
    """49 features: mean intensities of 4x4 tiles."""
    return avg_pool2d(images[:, 0].float(), 4).flatten(1)


TILES = extractors.Extractor("tiles", "0" * 64, tiles, 100, torch.device("cpu"))
FAST = {"classifiers": ("logistic",), "quiet": True, "extractor": TILES}


def take(images: LabelledImages, start: int, stop: int) -> LabelledImages:
    return LabelledImages(images.images[start:stop], images.labels[start:stop], images.classes)


@pytest.fixture(scope="module")
def sets(digits: LabelledImages) -> tuple[LabelledImages, LabelledImages, LabelledImages]:
    """A stand-in release, real training and real test images: 300 digits each."""
    return take(digits, 0, 300), take(digits, 300, 600), take(digits, 600, 900)


@pytest.fixture(scope="module")
def evaluation(sets: tuple[LabelledImages, LabelledImages, LabelledImages]) -> Evaluation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "mlp", replace(RECIPES["mlp"], epochs=3, batch_size=32))
        return evaluate(*sets, classifiers=("logistic", "mlp"), repeats=2, quiet=True)


def test_every_part_is_there_with_its_setting(evaluation: Evaluation) -> None:
    assert [score.classifier for score in evaluation.utility] == ["logistic", "mlp"]
    assert [score.classifier for score in evaluation.baseline] == ["logistic", "mlp"]
    for score in (*evaluation.utility, *evaluation.baseline):
        assert score.accuracy is not None
        assert score.accuracy.mean > 0.7
        assert (score.training_count, score.test_count) == (300, 300)
    names = [score.name for score in evaluation.fidelity]
    assert names == [
        "Fréchet distance", "kernel distance", "precision", "recall", "density", "coverage",
    ]  # fmt: skip
    for score in evaluation.fidelity:
        setting = score.setting
        assert setting.extractor == "efficientnet-lite0, pooled"
        assert len(setting.weights_digest) == 64
        assert (setting.synthetic_count, setting.real_count) == (300, 300)
        assert setting.image_type == "uint8"
        assert setting.grey_rule is not None
        assert "three channels" in setting.grey_rule
    assert evaluation.memorisation is not None
    assert evaluation.memorisation.training_count == 300
    assert evaluation.memorisation.exact_copies == 0


def test_repeats_differ_by_seed_and_an_optimum_is_found_once(evaluation: Evaluation) -> None:
    logistic, mlp = evaluation.utility
    assert [run.seed for run in logistic.runs] == [0]
    assert [run.seed for run in mlp.runs] == [0, 1]
    assert mlp.accuracy is not None
    assert mlp.accuracy.deviation is not None


def test_result_is_json_and_watermarked_while_private(evaluation: Evaluation) -> None:
    result = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert result["private"] is True
    assert "NOT PRIVATE" in result["watermark"]
    assert result["fidelity"][0]["setting"]["extractor"] == "efficientnet-lite0, pooled"
    public = replace(evaluation, private=False).to_dict()
    assert "watermark" not in public
    assert public["private"] is False


def shown(evaluation: Evaluation) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(render(evaluation))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_table_shows_scores_settings_and_watermark(evaluation: Evaluation) -> None:
    text = shown(evaluation)
    for part in ("NOT PRIVATE", "logistic", "mlp", "Fréchet distance", "coverage", "Mann-Whitney"):
        assert part in text
    assert evaluation.utility[0].accuracy is not None
    assert f"{100 * evaluation.utility[0].accuracy.mean:.1f}" in text
    assert evaluation.fidelity[0].setting.weights_digest[:12] in text
    assert "300 synthetic against 300 real uint8 images" in " ".join(text.split())
    assert "NOT PRIVATE" not in shown(replace(evaluation, private=False))


def test_diverged_classifier_is_shown_without_a_mean(
    sets: tuple[LabelledImages, LabelledImages, LabelledImages],
) -> None:
    synthetic, _, test = sets
    blank = replace(synthetic, images=np.zeros_like(synthetic.images))
    got = evaluate(blank, None, test, **FAST)
    assert got.utility[0].accuracy is None
    assert got.utility[0].diverged == 1
    assert "1 (1)" in shown(got)


class Poisoned(LabelledImages):
    """Real test images whose labels may not be read yet."""

    allowed = False

    def __getattribute__(self, name: str) -> object:
        if name == "labels" and not Poisoned.allowed:
            raise AssertionError("a classifier was still to be trained when test labels were read")
        return super().__getattribute__(name)


def test_test_labels_are_read_only_after_the_classifier_is_finished(
    sets: tuple[LabelledImages, LabelledImages, LabelledImages], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sfumato.evaluation.utility as utility

    synthetic, _, test = sets
    Poisoned.allowed = True
    poisoned = Poisoned(test.images, test.labels, test.classes)
    measure = utility.measure

    def unlock(*arguments: object) -> object:
        Poisoned.allowed = True
        return measure(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(utility, "measure", unlock)
    Poisoned.allowed = False
    monkeypatch.setitem(RECIPES, "mlp", replace(RECIPES["mlp"], epochs=2))
    evaluate(synthetic, None, poisoned, **{**FAST, "classifiers": ("mlp",)})
    assert Poisoned.allowed


def test_trained_weights_do_not_depend_on_the_test_set(
    sets: tuple[LabelledImages, LabelledImages, LabelledImages],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    synthetic, real, test = sets
    monkeypatch.setitem(RECIPES, "mlp", replace(RECIPES["mlp"], epochs=2))
    kept = []
    for other in (real, test):
        cache = tmp_path / str(len(kept))
        how = {**FAST, "classifiers": ("mlp",)}
        evaluate(synthetic, None, other, cache=cache, **how)
        (file,) = (cache / "classifiers").iterdir()
        kept.append((file.name, file.read_bytes()))
    assert kept[0] == kept[1]


def test_nothing_is_computed_twice(
    sets: tuple[LabelledImages, LabelledImages, LabelledImages],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = evaluate(*sets, cache=tmp_path, **FAST)

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(training, "_train", refuse)
    again = {**FAST, "extractor": replace(TILES, features=refuse)}
    assert evaluate(*sets, cache=tmp_path, **again) == first


def test_real_classes_may_come_in_another_order(
    sets: tuple[LabelledImages, LabelledImages, LabelledImages],
) -> None:
    synthetic, _, test = sets
    order = np.roll(np.arange(10), 3)
    renamed = tuple(test.classes[i] for i in order)
    shuffled = LabelledImages(test.images, np.argsort(order)[test.labels], renamed)
    assert [renamed[i] for i in shuffled.labels[:20]] == [test.classes[i] for i in test.labels[:20]]
    got, expected = (evaluate(synthetic, None, real, **FAST) for real in (shuffled, test))
    assert got == expected


def test_sets_that_do_not_fit_are_refused(
    sets: tuple[LabelledImages, LabelledImages, LabelledImages],
) -> None:
    synthetic, real, test = sets
    cropped = replace(test, images=np.ascontiguousarray(test.images[:, :, :24]))
    with pytest.raises(DataError, match=r"\(1, 28, 28\).*real test images \(1, 24, 28\)"):
        evaluate(synthetic, real, cropped)
    other = replace(real, classes=tuple("abcdefghij"))
    with pytest.raises(DataError, match="real training classes"):
        evaluate(synthetic, other, test)
    with pytest.raises(UsageError, match="svm"):
        evaluate(synthetic, real, test, classifiers=("svm",))
    with pytest.raises(UsageError, match="repeats=0"):
        evaluate(synthetic, real, test, repeats=0)
    for few in ((take(synthetic, 0, 5), real, test), (synthetic, real, take(test, 0, 5))):
        with pytest.raises(DataError, match="more than 5 images"):
            evaluate(*few)


def test_without_labels_or_training_images_the_rest_remains(
    sets: tuple[LabelledImages, LabelledImages, LabelledImages],
) -> None:
    synthetic, _, test = sets
    synthetic = replace(synthetic, classes=())  # an unlabelled release of labelled images
    got = evaluate(synthetic, None, test, public=True, **FAST)
    assert (got.utility, got.baseline, got.memorisation) == ((), (), None)
    assert len(got.fidelity) == 6
    assert "Fidelity" in shown(got)


def test_copied_training_images_are_counted(
    sets: tuple[LabelledImages, LabelledImages, LabelledImages],
) -> None:
    synthetic, real, test = sets
    half = LabelledImages(
        np.concatenate([synthetic.images[:150], real.images[:150]]),
        np.concatenate([synthetic.labels[:150], real.labels[:150]]),
        synthetic.classes,
    )
    got = evaluate(half, real, test, **{**FAST, "classifiers": ()}).memorisation
    assert got is not None
    assert got.exact_copies == 150
    assert got.result.share_closer > 0.4
    assert got.result.p_value < 1e-6


def test_fidelity_draws_the_same_number_from_both_sides(
    sets: tuple[LabelledImages, LabelledImages, LabelledImages],
) -> None:
    synthetic, _, test = sets
    order = np.argsort(synthetic.labels, kind="stable")  # by class, as releases are written
    ordered = LabelledImages(synthetic.images[order], synthetic.labels[order], synthetic.classes)
    how = {**FAST, "classifiers": ()}
    got = evaluate(ordered, None, take(test, 0, 100), **how)
    assert got.fidelity[0].setting.synthetic_count == 100
    # The first hundred of an ordered set would miss most classes.
    first = evaluate(take(ordered, 0, 100), None, take(test, 0, 100), **how)
    assert got.fidelity[0].value < first.fidelity[0].value / 2
