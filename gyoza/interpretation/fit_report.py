"""What the fit of an interpreter found, on validation data."""

import dataclasses

import numpy as np

__all__ = ["FitReport", "SMALL_DIFFERENCE"]

_LEAST_GAIN = 0.005
"""The smallest gain in score for which a trained flow is preferred to the linear answer."""

SMALL_DIFFERENCE = 0.1
"""A factor whose score is less than this above chance is hardly present."""

_TITLES = {"unchanged": "no exchange", "none": "pair axes"}


def _title(method: str) -> str:
    return _TITLES.get(method, f"{method} flow")


@dataclasses.dataclass(frozen=True)
class FitReport:
    """What :func:`fit_interpreter` found, on validation instances.

    `str(report)` is a table.

    Attributes:
        dimensions_per_factor: The sizes of the factors by name.
        kept_count: The number of principal axes that go through the flow.
        explained_variance: Their share of the variance of the hidden representation.
        names: The names of the factors, without the residual one.
        chances: The score of each of them by chance: for classes, how often the best constant
            answer is right; 0 for numbers.
        scores: For each method by name ("none" is the linear answer, "unchanged" stands for
            instances without an exchange), what the judging probe reads after exchanges, `[pairs,
            1 + K, K]`: the second axis is the factor that was exchanged, the residual one first,
            and the last axis is the factor that is read. For classes, 1 stands for the right one
            and 0 for any other; for numbers, the score is 1 minus the squared error in units of the
            variance. It is NaN where both instances of the pair have the same class.
        history: The losses of the trained flow by epoch, as `fit` of Keras returns them; empty if
            no flow was trained.
    """

    dimensions_per_factor: dict[str, int]
    kept_count: int
    explained_variance: float
    names: list[str]
    chances: list[float]
    scores: dict[str, np.ndarray]
    history: dict[str, list[float]]

    @property
    def means(self) -> dict[str, np.ndarray]:
        """The mean scores of each method, `[1 + K, K]`."""
        return {name: np.nanmean(scores, axis=0) for name, scores in self.scores.items()}

    @property
    def gain(self) -> tuple[float, float]:
        """How much better the trained flow is than the linear answer, and the standard error.

        This is the difference between their mean scores over all exchanges and readings, NaN unless
        both have been judged.
        """
        if "none" not in self.scores or "affine" not in self.scores:
            return np.nan, np.nan
        difference = self.scores["affine"] - self.scores["none"]
        difference = difference.reshape(len(difference), -1)
        # Weighted such that each exchange and reading counts the same, however many are NaN.
        weights = 1.0 / np.sum(np.isfinite(difference), axis=0) / difference.shape[1]
        of_pairs = np.nansum(weights * difference, axis=1)
        return float(of_pairs.sum()), float(of_pairs.std() * np.sqrt(len(of_pairs)))

    @property
    def chosen(self) -> str:
        """The method that was chosen."""
        *_, last = self.scores
        gain, error = self.gain
        return "none" if gain <= max(_LEAST_GAIN, 2.0 * error) else last

    def __str__(self) -> str:
        """Returns a table of scores."""
        count, means = sum(self.dimensions_per_factor.values()), self.means
        width = max(9, *map(len, self.names))
        lines = [
            f"{count} dimensions, of which {self.kept_count} principal axes "
            f"({self.explained_variance:.1%} of the variance) go through the flow",
            "sizes: " + ", ".join(f"{k} {n}" for k, n in self.dimensions_per_factor.items()),
            "",
            "held-out exchanges, read by a probe: 1 is perfect",
            f"{'exchanged':{width}}" + "".join(f"{_title(name):>18}" for name in means),
            f"{'':{width}}" + f"{'follows':>10}{'keep':>8}" * len(means),
        ]
        for k, name in enumerate(("residual", *self.names)):
            cells = ""
            for scores in means.values():
                others = np.delete(scores[k], k - 1) if k else scores[k]
                cells += f"{scores[k, k - 1]:10.3f}" if k else f"{'':10}"
                cells += f"{others.mean():8.3f}" if len(others) else f"{'':8}"
            lines.append(f"{name:{width}}{cells}".rstrip())
        gain, error = self.gain
        if np.isfinite(gain):
            lines += ["", f"gain of the trained flow: {gain:.3f} ± {error:.3f}"]
        lines.append(f"chosen: {_title(self.chosen)}")
        lines += [
            f"{name} is hardly read from this layer at all: there is little to exchange"
            for name, reading, chance in zip(
                self.names, means["unchanged"][0], self.chances, strict=True
            )
            if reading < chance + SMALL_DIFFERENCE
        ]
        return "\n".join(lines)
