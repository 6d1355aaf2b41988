"""What models share whose `compile` checks its arguments."""

import inspect
from collections.abc import Sequence
from typing import Any

import keras

__all__ = ["ChecksCompilation", "bind_compile", "find_foreign", "list_metrics"]

_COMPILE = inspect.signature(keras.Model.compile)
# What Keras has of metrics and losses that can be given anything.
_GENERAL = (
    keras.metrics.Metric,
    keras.metrics.Mean,
    keras.metrics.MeanMetricWrapper,
    keras.metrics.Sum,
    keras.losses.Loss,
)


def find_foreign(given: Any, packages: Sequence[str] = ("keras",)) -> list[Any]:
    """Returns those metrics or losses that compare labels with predictions.

    They are given by name, as functions or as objects. What users have written or registered is
    not among them.

    Args:
        given: A structure of metrics or losses.
        packages: The packages whose metrics and losses do so.
    """
    found = []
    for each in keras.tree.flatten(given):
        if isinstance(each, str):
            is_foreign = keras.saving.get_registered_object(each) is None
        else:
            owner = each if hasattr(each, "__name__") else type(each)
            is_foreign = owner.__module__.partition(".")[0] in packages and owner not in _GENERAL
        found += [each] if is_foreign else []
    return found


def bind_compile(model: keras.Model, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Returns the arguments of `compile` by name."""
    return _COMPILE.bind(model, *args, **kwargs).arguments


def list_metrics(model: keras.Model, *args: Any, **kwargs: Any) -> list[keras.Metric]:
    """Returns the metrics, and those with weights, among arguments of `compile`."""
    bound = bind_compile(model, *args, **kwargs)
    return [bound.get(name) or [] for name in ("metrics", "weighted_metrics")]


class ChecksCompilation:
    """What a Keras model is derived from, before `keras.Model`, that has a `compile` of its own."""

    def _is_overridden(self, *names: str) -> bool:
        """Returns whether a user's class defines one of some methods."""
        owners = {getattr(type(self), name).__module__.partition(".")[0] for name in names}
        return not owners <= {"gyoza", "keras"}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model as it was compiled when it was saved."""
        model: Any = self
        if self._is_overridden("compile"):
            # Keras warns of a `compile` that users wrote.
            super().compile_from_config(config)  # type: ignore[misc]
            return
        model.compile(**keras.saving.deserialize_keras_object(config))
        if model.built:
            model.optimizer.build(model.trainable_variables)
