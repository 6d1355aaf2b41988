"""Methods that find factors in a network, from the simplest to the most flexible."""

import functools
from collections.abc import Callable
from typing import Any

from gyoza.applications.interpretation_network import CAPACITIES
from gyoza.interpretation import baselines
from gyoza.interpretation.fitting import fit_interpreter
from gyoza.interpretation.interpreter import Interpreter

__all__ = ["Method", "default_methods"]

Method = Callable[..., Interpreter]


def default_methods(**kwargs: Any) -> dict[str, Method]:
    """Returns the methods that :func:`compare` compares, in the order of simplicity.

    They are the :mod:`~gyoza.interpretation.baselines`, and flows of growing capacity that are
    trained by :func:`~gyoza.interpretation.fit_interpreter`.

    Args:
        **kwargs: Further arguments of :func:`~gyoza.interpretation.fit_interpreter`, such as
            `step_count`.

    Returns:
        The methods by name.
    """
    closed_forms = (
        baselines.random_subspace,
        baselines.units,
        baselines.principal_axes,
        baselines.difference_of_means,
        baselines.leace,
        baselines.pair_axes,
    )
    methods: dict[str, Method] = {
        method.__name__.replace("_", " "): method for method in closed_forms
    }
    for capacity in CAPACITIES:
        methods[f"{capacity} flow"] = functools.partial(
            fit_interpreter, capacity=capacity, **kwargs
        )
    return methods
