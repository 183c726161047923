"""Honest metrics: what synthetic images are worth to a classifier, and how near real they come."""

from sfumato.evaluation.classifiers import RECIPES
from sfumato.evaluation.evaluate import NOT_PRIVATE, Evaluation, evaluate
from sfumato.evaluation.extractors import Extractor, extract, load_extractor
from sfumato.evaluation.fidelity import frechet_distance, gaussian_frechet_distance, kernel_distance
from sfumato.evaluation.neighbours import manifold_scores, memorisation
from sfumato.evaluation.table import render
from sfumato.evaluation.training import FittedClassifier, fit, predict, probabilities
from sfumato.evaluation.utility import UtilityScore, measure, score

__all__ = [
    "NOT_PRIVATE",
    "RECIPES",
    "Evaluation",
    "Extractor",
    "FittedClassifier",
    "UtilityScore",
    "evaluate",
    "extract",
    "fit",
    "frechet_distance",
    "gaussian_frechet_distance",
    "kernel_distance",
    "load_extractor",
    "manifold_scores",
    "measure",
    "memorisation",
    "predict",
    "probabilities",
    "render",
    "score",
]
