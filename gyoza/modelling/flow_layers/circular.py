"""Which dimensions of a flow are angles."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gyoza.modelling.axes import read_shape
from gyoza.modelling.conditioners import Conditioner
from gyoza.modelling.flow_layers.couplings import Coupling
from gyoza.modelling.flow_layers.normalisation import ActivationNormalization
from gyoza.modelling.flow_layers.permutations import Permutation
from gyoza.modelling.flow_layers.spline_couplings import CircularSplineCoupling
from gyoza.typing import Shape

__all__ = ["set_periods"]


def set_periods(layers: Sequence[Any], input_shape: Shape) -> None:
    """Sets the periods of conditioners, in flows of angles and other numbers.

    Circular couplings change angles, and other couplings change other numbers. So a dimension that
    one of them changes is known in all couplings before and after it, as long as no layer in
    between mixes dimensions. Conditioners that were given their periods, or are built, are left
    as they are.

    Args:
        layers: The layers of the flow. Only those are looked at that come before the first one that
            may mix dimensions: couplings, permutations and normalisations.
        input_shape: The shape of its inputs, `[batch, ...]`.
    """
    keep_dimensions = (Coupling, Permutation, ActivationNormalization)
    end = next(
        (i for i, la in enumerate(layers) if not isinstance(la, keep_dimensions)), len(layers)
    )
    layers = layers[:end]
    if not any(isinstance(layer, CircularSplineCoupling) for layer in layers):
        return
    shapes = [read_shape(input_shape, layer._shape_, layer._axes_) for layer in layers]
    if any(shape != shapes[0] for shape in shapes):
        return
    names = np.arange(np.prod(shapes[0][0]))
    periods: dict[int, float | None] = {}
    couplings = []
    for layer in layers:
        if isinstance(layer, Permutation):
            if not layer.built:
                layer.build(input_shape)
            names = names[np.asarray(layer.make_permutation())]
        elif isinstance(layer, Coupling):
            layer._mask_.set_shape(*shapes[0])
            period = 2 * layer.bound if isinstance(layer, CircularSplineCoupling) else None
            for name in names[layer._mask_.changed_indices]:
                # What couplings of both kinds change is not an angle for long.
                periods[name] = period if periods.get(name, period) == period else None
            couplings.append((layer, names[layer._mask_.kept_indices]))
    for layer, kept in couplings:
        network: Any = layer._compute_coupling_parameters_
        if not isinstance(network, Conditioner) or network.built:
            continue
        if network.sees_kept_entries(shapes[0][1]):
            own = 2 * layer.bound if isinstance(layer, CircularSplineCoupling) else None
            network.set_periods([periods.get(name, own) for name in kept])
