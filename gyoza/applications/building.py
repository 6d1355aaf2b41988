"""What ready-made flows are built with."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import keras

from gyoza.modelling.conditioners import MADE
from gyoza.modelling.flow_layers import ActivationNormalization, FlowLayer
from gyoza.modelling.functions.checks import check_integer, check_positive_integers
from gyoza.typing import DType

__all__ = ["in_dtype", "alternate", "make_autoregressive", "ORDERS"]

# Of autoregressive layers, one after the other.
ORDERS = "natural", "reversed"

_Make = TypeVar("_Make", bound=Callable[..., keras.Model])


def in_dtype(make: _Make) -> _Make:
    """Lets `dtype` be the policy of all that a function makes, by Keras' default policy.

    A `TypeError` lists the arguments of the function if it is given others that its model does not
    know.
    """
    own = [*inspect.signature(make).parameters, "dtype"]
    own.remove("kwargs")

    @functools.wraps(make)
    def make_in_dtype(*args: Any, dtype: DType = None, **kwargs: Any) -> keras.Model:
        default = keras.config.dtype_policy()
        keras.config.set_dtype_policy(keras.dtype_policies.get(dtype))
        try:
            return make(*args, **kwargs)
        except (TypeError, ValueError) as error:
            unknown = [name for name in kwargs if f"'{name}'" in str(error)]
            if "keyword argument" not in str(error) or not unknown:
                raise
            raise TypeError(
                f"The arguments of `{make.__name__}` should be some of {own}, or arguments of the "
                f"model that it makes, such as `name`. Received: {unknown}"
            ) from error
        finally:
            keras.config.set_dtype_policy(default)

    return make_in_dtype  # type: ignore[return-value]


def alternate(
    layer_count: int,
    make_layer: Callable[[], FlowLayer],
    make_between: Callable[[], list[FlowLayer]],
) -> list[FlowLayer]:
    """Returns layers, with others in between."""
    check_integer("layer_count", layer_count, minimum=1)
    layers = [make_layer()]
    for _ in range(layer_count - 1):
        layers += [*make_between(), make_layer()]
    return layers


def make_autoregressive(
    layer_count: int,
    hidden_sizes: Iterable[int],
    residual: bool,
    make_layer: Callable[..., FlowLayer],
) -> list[FlowLayer]:
    """Returns autoregressive layers of alternating order, each after a normalisation."""
    check_integer("layer_count", layer_count, minimum=1)
    hidden_sizes = check_positive_integers("hidden_sizes", hidden_sizes)
    layers: list[FlowLayer] = []
    for index in range(layer_count):
        network = MADE(hidden_sizes, residual=residual, order=ORDERS[index % 2])
        layers += [ActivationNormalization(), make_layer(conditioner=network)]
    return layers
