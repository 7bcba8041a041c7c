"""Linear SVMs, one a class, found among more negatives than fit in memory by mining the hard ones.

What is fitted on the negatives mined is the solution over all of them once no other negative lies within the margin:
those beyond it would have no weight in it. The solver is scikit-learn's (liblinear).
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

NEVER = -1e6
"""The margin of a class without examples."""
SCALE_ROWS = 10_000
"""Rows that the mean norm is taken over."""


@dataclasses.dataclass(frozen=True)
class SVMSettings:
    """How they are found. The cost, the weights, the norm, the overlap and when to fit anew and to forget are those of
    R-CNN (Girshick et al. 2014, section 2.3) and of its code, for 4096 features. That begins with all negatives of its
    first images and passes over the data once; here negatives to begin with are drawn, and passes go on until few are
    found, so that the end depends little on the order of the images."""

    c: float = 1e-3
    """Weight of the hinge losses beside the squared norm."""
    positive_weight: float = 2.0
    """Weight of a positive's loss, a negative's being 1."""
    intercept: float = 10.0
    """What the constant feature is, whose weight is the bias: the larger, the less the bias is held small."""
    norm: float = 20.0
    """What features are scaled to on average before."""
    overlap: float = 0.3
    """A region whose IoU with all objects of a class is below this is a negative of the class."""
    first: int = 2000
    """Negatives of each class, drawn at random, to begin with."""
    retrain: int = 2000
    """New hard negatives of a class after which its SVM is fitted anew."""
    evict: float = 1.2
    """Negatives this far on their side are forgotten at the next fit."""
    passes: int = 10
    """The most passes over all regions."""
    few: int = 10
    """A pass that finds no more new hard negatives than this, of all classes together, is the last."""
    iterations: int = 2000
    """The most that liblinear takes for a fit. Those that stop there are counted (`SVMs.short`)."""
    block: int = 8192
    """Regions read at a time."""


class SVMs(NamedTuple):
    """The SVMs of all classes and the negatives that each was fitted on."""

    kernel: Float32[np.ndarray, "f k"]
    bias: Float32[np.ndarray, "k"]
    negatives: tuple[Int[np.ndarray, "_"], ...]
    """Rows, rising."""
    passes: int = 0
    """Passes over the regions so far."""
    found: int = -1
    """New hard negatives in the last of them; -1 before the first."""
    short: int = 0
    """Fits of the last pass that ended before they reached liblinear's tolerance."""

    def finished(self, settings: SVMSettings) -> bool:
        """Whether another pass is not worth its while."""
        return self.passes >= settings.passes or 0 <= self.found <= settings.few


def feature_scale(features: Float[np.ndarray, "m f"], norm: float) -> float:
    """The factor that brings features to this norm on average, over at most `SCALE_ROWS` rows; 1 where all are zero."""
    rows = np.linspace(0, len(features) - 1, min(len(features), SCALE_ROWS)).astype(np.int64)
    mean = float(np.linalg.norm(features[rows].astype(np.float32), axis=1).mean()) if len(rows) else 0.0
    return norm / mean if mean > 0 else 1.0


class Miner:
    """Finds SVMs among regions.

    Args:
      features: a row a region; may be a memory map, of which `settings.block` rows are read at a time.
      positives: rows of each class's examples.
      negative: which regions are negatives of which class.
      scale: what features are multiplied by before; it is part of the kernels found.
      watch: called after each class in `first`, and after each of the `steps` blocks of a pass; may raise to end them.
    """

    def __init__(
        self,
        features: Float[np.ndarray, "m f"],
        positives: Sequence[Int[np.ndarray, "_"]],
        negative: Bool[np.ndarray, "m k"],
        settings: SVMSettings,
        *,
        scale: float = 1.0,
        watch: Callable[[], object] = lambda: None,
    ) -> None:
        self._watch = watch
        self._features, self._positives, self._negative = features, positives, negative
        self._settings, self._scale = settings, scale

    @property
    def steps(self) -> int:
        """Blocks of a pass."""
        return -(-len(self._features) // self._settings.block)

    def first(self, *, seed: int = 0) -> SVMs:
        """SVMs on the positives and `settings.first` random negatives of each class.

        Raises:
          ValueError: a class that has positives has no negative.
        """
        k, rng, negatives = len(self._positives), np.random.default_rng(seed), []
        for c, positives in enumerate(self._positives):
            usable = np.flatnonzero(self._negative[:, c])
            if len(positives) and not len(usable):
                raise ValueError(f"no region is a negative of class {c}: give more proposals, or raise svm.overlap.")
            chosen = rng.choice(usable, min(self._settings.first, len(usable)), replace=False)
            negatives.append(np.sort(chosen) if len(positives) else chosen[:0])
        shape = (self._features.shape[1], k)
        svms = SVMs(np.zeros(shape, np.float32), np.full(k, NEVER, np.float32), tuple(negatives))
        for c in range(k):
            svms = self._fitted(svms, c)
            self._watch()
        return svms

    def mined(self, svms: SVMs) -> SVMs:
        """After one more pass over all regions."""
        fresh: list[list[np.ndarray]] = [[] for _ in svms.negatives]
        svms = svms._replace(short=0)
        found, present = 0, [len(positives) > 0 for positives in self._positives]
        for start in range(0, len(self._features), self._settings.block):
            block = self._features[start : start + self._settings.block].astype(np.float32)
            hard = (block @ svms.kernel + svms.bias > -1) & self._negative[start : start + len(block)]
            for c in np.flatnonzero(hard.any(axis=0) & present).tolist():
                new = np.setdiff1d(start + np.flatnonzero(hard[:, c]), svms.negatives[c], assume_unique=True)
                fresh[c].append(new)
                found += len(new)
                if sum(map(len, fresh[c])) >= self._settings.retrain:
                    svms = self._fitted(_with(svms, c, fresh[c]), c)
                    fresh[c] = []
            self._watch()
        for c, new in enumerate(fresh):
            if sum(map(len, new)):
                svms = self._fitted(_with(svms, c, new), c)
        return svms._replace(passes=svms.passes + 1, found=found)

    def _fitted(self, svms: SVMs, c: int) -> SVMs:
        """Class c fitted on its positives and the negatives it has, of which the easy ones are then forgotten."""
        if not len(self._positives[c]):
            return svms
        settings, negatives = self._settings, svms.negatives[c]
        x = self._rows(np.concatenate([self._positives[c], negatives]))
        y = np.repeat([1, 0], [len(self._positives[c]), len(negatives)])
        svm = LinearSVC(
            C=settings.c,
            loss="hinge",
            class_weight={1: settings.positive_weight},
            intercept_scaling=settings.intercept,
            max_iter=settings.iterations,
            random_state=0,
        )
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", ConvergenceWarning)
            svm.fit(x, y)
        kernel, bias = svms.kernel.copy(), svms.bias.copy()
        kernel[:, c], bias[c] = self._scale * svm.coef_[0], svm.intercept_[0]
        kept = svm.decision_function(x[len(self._positives[c]) :]) > -settings.evict if len(negatives) else []
        after = (*svms.negatives[:c], negatives[np.asarray(kept, bool)], *svms.negatives[c + 1 :])
        short = svms.short + any(issubclass(warning.category, ConvergenceWarning) for warning in told)
        return svms._replace(kernel=kernel, bias=bias, negatives=after, short=short)

    def _rows(self, rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n f"]:
        """Rows as liblinear takes them, read in the order in which they lie on disk."""
        order = np.argsort(rows, kind="stable")
        x = np.empty((len(rows), self._features.shape[1]), np.float64)
        x[order] = self._features[rows[order]]
        return x * self._scale


def _with(svms: SVMs, c: int, new: list[np.ndarray]) -> SVMs:
    union = np.union1d(svms.negatives[c], np.concatenate(new))
    return svms._replace(negatives=(*svms.negatives[:c], union, *svms.negatives[c + 1 :]))
