"""Networks that have learnt nothing, and judges of what networks answer."""

import random
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from gyoza.interpretation.parts import run_in_batches, to_columns
from gyoza.interpretation.scores import Judges
from gyoza.modelling.axes import check_integers
from gyoza.modelling.functions.checks import check_integer, is_integer
from gyoza.modelling.metrics.codes import is_categorical
from gyoza.typing import Tensors

__all__ = [
    "reinitialise",
    "choose_judges",
    "answer",
    "check_labels",
    "to_seeds",
    "check_counts",
]


def reinitialise(
    parts: tuple[keras.Layer, keras.Layer], seed: int
) -> tuple[keras.Layer, keras.Layer]:
    """Returns parts of the same architecture, with fresh weights that are determined by a seed.

    The mean and variance of inputs that `keras.layers.Normalization` has been adapted to are kept.

    Args:
        parts: The head and the tail.
        seed: The seed, which replaces those of the initialisers.

    Returns:
        Both parts, re-initialised.

    Raises:
        ValueError: If they cannot be created from their configuration.
    """
    state = random.getstate()
    random.seed(seed)  # Keras draws the seeds of initialisers from it
    try:
        head, tail = (_renew(part) for part in parts)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "The re-initialised control needs a network that Keras can recreate by `get_config` "
            f"and `from_config`. Received: parts={parts}"
        ) from error
    finally:
        random.setstate(state)
    return head, tail


def _renew(part: keras.Layer) -> keras.Layer:
    clone = type(part).from_config(_renew_seeds(part.get_config()))
    if not clone.built:
        clone.build_from_config(part.get_build_config())
    for layer, fresh in zip(_list_layers(part), _list_layers(clone), strict=True):
        if isinstance(layer, keras.layers.Normalization):
            state: dict[str, Any] = {}
            layer.save_own_variables(state)
            fresh.load_own_variables(state)
    return clone


def _list_layers(layer: keras.Layer) -> list[keras.Layer]:
    """Returns a layer and all layers within it."""
    inner = (x for part in getattr(layer, "layers", []) for x in _list_layers(part))
    return [layer, *inner]


def _renew_seeds(config: Any) -> Any:
    """Returns a configuration with new random seeds."""
    if isinstance(config, dict):
        return {
            key: random.getrandbits(31)
            if key == "seed" and isinstance(value, int)
            else _renew_seeds(value)
            for key, value in config.items()
        }
    if type(config) in (list, tuple):
        return type(config)(map(_renew_seeds, config))
    return config


def choose_judges(
    parts: tuple[keras.Layer, keras.Layer], x: np.ndarray, labels: np.ndarray, names: list[str]
) -> Judges:
    """Returns the judge of the first factor, if the network classifies it.

    Raises:
        ValueError: If it seems to, but the classes are not the indices of the outputs.
    """
    shape: Any = getattr(answer(parts, x[:1]), "shape", ())
    column = to_columns(labels, len(labels))[0]
    if not is_categorical(column) or tuple(shape[1:]) != (column.max() + 1,):
        return {}
    values = np.unique(np.asarray(labels[:, 0].tolist()))
    if not np.array_equal(values, np.arange(len(values))):
        raise ValueError(
            f"A judge of {names[0]!r} should be given: it has as many classes as the network has "
            "outputs, but the classes are not the indices of the outputs. Received: the classes "
            f"{values.tolist()} and no judge"
        )
    return {names[0]: lambda outputs: np.argmax(outputs, axis=1)}


def answer(parts: tuple[keras.Layer, keras.Layer], x: np.ndarray) -> Tensors:
    """Returns the outputs of a network."""
    return run_in_batches(lambda batch: parts[1](parts[0](batch)), x)


def check_labels(x: np.ndarray, labels: np.ndarray, count: int) -> None:
    """Checks that labels of K factors fit the inputs, and vary.

    Raises:
        ValueError: If they do not.
    """
    if labels.shape != (len(x), count) or not labels.size:
        raise ValueError(
            f"Labels of {len(x)} instances should have shape [{len(x)}, {count}], and there should "
            "be some that are not held out, for training, and some that are, for tests. Received: "
            f"labels of shape {labels.shape}"
        )
    to_columns(labels, len(x))


def to_seeds(seeds: int | Iterable[int]) -> list[int]:
    """Converts seeds, or their number, to a list.

    Raises:
        TypeError: If they are not integers.
        ValueError: If there is none, or if one is negative or occurs twice.
    """
    values: Any = seeds
    checked = check_integers("seeds", range(values) if is_integer(values) else values)
    if not checked or min(checked) < 0 or len(set(checked)) < len(checked):
        raise ValueError(
            "`seeds` should be a number of at least 1, or different integers that are not "
            f"negative. Received: seeds={seeds}"
        )
    return checked


def check_counts(**counts: Any) -> None:
    """Checks that numbers of pairs and instances are positive integers."""
    for name, count in counts.items():
        check_integer(name, count, minimum=1)
