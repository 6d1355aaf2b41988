"""Networks that have learnt nothing, and judges of what networks answer."""

import random
from typing import Any

import keras
import numpy as np

from gyoza.interpretation.parts import run_in_batches, to_columns
from gyoza.interpretation.scores import Judges
from gyoza.modelling.metrics.codes import is_categorical

__all__ = ["reinitialise", "choose_judges", "to_matrix"]


def reinitialise(
    parts: tuple[keras.Layer, keras.Layer], seed: int
) -> tuple[keras.Layer, keras.Layer]:
    """Returns parts of the same architecture, with fresh weights that follow from a seed."""
    state = random.getstate()
    random.seed(seed)  # from which Keras draws the seeds of initialisers
    clones = []
    for part in parts:
        clone = type(part).from_config(part.get_config())
        if not clone.built:
            clone.build_from_config(part.get_build_config())
        clones.append(clone)
    random.setstate(state)
    return clones[0], clones[1]


def choose_judges(
    parts: tuple[keras.Layer, keras.Layer], x: np.ndarray, labels: np.ndarray, names: list[str]
) -> Judges:
    """Returns the judge of the first factor, if it is what the network tells classes of."""
    outputs = run_in_batches(lambda batch: parts[1](parts[0](batch)), x[:1])
    column = to_columns(labels, len(labels))[0]
    shape: Any = getattr(outputs, "shape", ())
    if is_categorical(column) and tuple(shape[1:]) == (column.max() + 1,):
        values = np.unique(np.asarray(labels[:, 0].tolist()))
        return {names[0]: lambda outputs: values[np.argmax(outputs, axis=1)]}
    return {}


def to_matrix(labels: Any) -> np.ndarray:
    """Turns labels into a matrix, `[instances, K]`."""
    matrix = np.asarray(labels)
    return matrix[:, None] if matrix.ndim == 1 else matrix
