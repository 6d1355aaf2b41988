"""Splitting a network in two at one of its layers."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.backend import Use, list_uses
from gyoza.modelling.functions.checks import check_instance, is_integer
from gyoza.typing import Shape, Tensor, Tensors

__all__ = ["split_network"]


def split_network(
    network: keras.Model, layer: str | int | keras.Layer
) -> tuple[keras.Model, keras.Model]:
    r"""Splits a network at a layer into a head :math:`h` and a tail :math:`g`.

    The network is :math:`g \circ h`. Both parts consist of the layers of the network, not of copies
    of them: weights that are trained later change in all three. On a few random inputs, the parts
    are compared with the network.

    Args:
        network: A trained Keras model: sequential, functional, or a subclass of `keras.Model` whose
            `call` consists of Keras layers and operations. A subclassed model has to be built, and
            to have one argument besides `training`, which may be a list or dictionary of tensors.
            Models that were saved by Keras 2 can be loaded with
            `keras.models.load_model(path, compile=False)`.
        layer: The layer whose outputs are the hidden representation: the layer itself, its index in
            `network.layers`, or its name. A layer of a model within the network is given as itself,
            or as the path `"model/layer"`.

    Returns:
        The head :math:`h`, from the inputs of the network to the outputs of the layer, and the tail
        :math:`g`, from there to the outputs of the network. Both are functional Keras models. Where
        the network has a list of one input or output, they have the tensor itself.

    Raises:
        TypeError: If `network` is not a Keras model, or `layer` is neither a string nor an integer
            nor a Keras layer.
        ValueError: If there is no such layer; if it is the last one, is used more than once, or has
            several outputs; if tensors other than its outputs pass from the head to the tail, such
            as those of a skip connection; if the model is not built, or its `call` cannot be traced
            with symbolic tensors, for instance because it branches on their values; or if the parts
            do not return what the network returns.

    Example:

        >>> network = keras.Sequential([
        ...     keras.Input([4]),
        ...     keras.layers.Dense(8, activation="relu", name="hidden"),
        ...     keras.layers.Dense(3),
        ... ])
        >>> head, tail = gyoza.interpretation.split_network(network, "hidden")
        >>> x = np.ones([2, 4], "float32")
        >>> tuple(head(x).shape)
        (2, 8)
        >>> bool(np.allclose(tail.predict(head(x), verbose=0), network.predict(x, verbose=0)))
        True
    """
    check_instance("network", network, keras.Model, "a `keras.Model`")
    inputs, outputs = _to_graph(network)
    path = _to_path(network, layer)
    head, tail = _split(inputs, outputs, path, network.name)
    if tail is None:
        raise _nothing_after(getattr(path[-1], "name", path[-1]))
    _check_composition(network, inputs, head, tail)
    return head, tail


def _to_path(network: keras.Model, layer: str | int | keras.Layer) -> list[str | keras.Layer]:
    """Returns the models that contain a layer, the outermost one first, and the layer."""
    if isinstance(layer, str):
        return list(layer.split("/"))
    if isinstance(layer, keras.Layer):
        return _find_path(network, layer) or [layer]
    if not is_integer(layer):
        raise TypeError(
            "`layer` should be a name, an index, or a Keras layer. "
            f"Received: layer={layer!r} (of type {type(layer)})"
        )
    count = len(network.layers)
    if not -count <= layer < count:
        raise ValueError(
            f"`layer` should be an index of the {count} layers of network '{network.name}'. "
            f"Received: layer={layer}"
        )
    return [network.layers[layer]]


def _find_path(model: keras.Model, layer: keras.Layer) -> list[keras.Layer] | None:
    for inner in model.layers:
        if inner is layer:
            return [layer]
        path = _find_path(inner, layer) if isinstance(inner, keras.Model) else None
        if path:
            return [inner, *path]
    return None


def _to_graph(network: keras.Model) -> tuple[Tensors, Tensors]:
    """Returns the symbolic inputs and outputs of a network, whatever kind of model it is."""
    if not network.built:
        raise ValueError(
            f"Network '{network.name}' should be built: call it on data first. "
            f"Received: network={network}"
        )
    if isinstance(network, keras.Sequential):
        return network.inputs[0], network.outputs[0]
    if hasattr(network, "outputs"):
        return network.input, network.output
    shapes, source = _get_input_shape(network)

    def make_input(shape: Shape, name: str | None = None) -> Tensor:
        return keras.Input(batch_shape=(None, *shape[1:]), dtype=network.input_dtype, name=name)

    if isinstance(shapes, dict):
        inputs = {name: make_input(shape, name) for name, shape in shapes.items()}
    else:
        inputs = keras.tree.map_shape_structure(make_input, shapes)
    try:
        # Layers that are called on symbolic tensors record their connections.
        outputs = network.call(inputs)
    except _TRACING_ERRORS as error:
        raise _not_traceable(
            network, f"a `call` that raises {type(error).__name__}{source}: {error}"
        ) from error
    if not all(isinstance(y, keras.KerasTensor) for y in keras.tree.flatten(outputs)):
        raise _not_traceable(network, "a `call` that returns something other than tensors")
    outputs, uses = list_uses(inputs, outputs)
    for use in uses:
        if _uses_outer_tensors(use):
            name = use.operation.name
            raise _not_traceable(network, f"'{name}', whose functions use tensors from outside")
    return inputs, outputs


def _uses_outer_tensors(use: Use) -> bool:
    """Returns whether an operation such as `ops.cond` hides connections in its functions."""
    arguments = keras.tree.flatten((use.args, use.kwargs))
    cells = [cell for f in arguments for cell in getattr(f, "__closure__", None) or ()]
    return _has_tensors([cell.cell_contents for cell in cells])


def _get_only(structure: Tensors) -> Tensors:
    """Unwraps a list of one tensor, as models that Keras 2 saved have for inputs and outputs."""
    if isinstance(structure, list | tuple) and len(structure) == 1:
        return structure[0]
    return structure


def _get_input_shape(network: keras.Model) -> tuple[Any, str]:
    """Returns the shape of a subclassed model's inputs, and where it is from, for an error.

    Keras does not know the shape if it could not trace `call` when it built the model. The shape of
    the first layer's inputs is then used: tracing with it shows what went wrong.
    """
    shape = (network.get_build_config() or {}).get("input_shape")
    if shape is not None:
        return shape, ""
    for layer in network.layers:
        shape = (layer.get_build_config() or {}).get("input_shape")
        if shape is not None:
            return shape, f" on inputs of shape {shape}, like those of layer '{layer.name}'"
    raise _not_traceable(network, "a network and layers that do not know the shape of their inputs")


# What Keras and the code of users raise if symbolic tensors cannot be used.
_TRACING_ERRORS = (
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
)


def _not_traceable(network: keras.Model, received: str) -> ValueError:
    """Creates the error for networks that do not consist of layers and operations alone."""
    return ValueError(
        f"Network '{network.name}' should have a single argument besides `training`, and a `call` "
        "that consists of Keras layers and operations and does not branch on values of tensors, so "
        "that it can be traced with symbolic tensors. If this is so, but on inputs of another "
        "shape, split `keras.Model(x, network.call(x))` with a `keras.Input` for `x`. "
        f"Received: {received}"
    )


def _split(
    inputs: Tensors, outputs: Tensors, path: Sequence[str | keras.Layer], name: str
) -> tuple[keras.Model, keras.Model | None]:
    """Splits a graph at the layer at the end of a path, which may be in a model within the graph.

    Args:
        inputs: The inputs of the graph.
        outputs: The outputs of the graph.
        path: The models that contain the layer, and the layer: themselves, or their names.
        name: The name of the network, for errors.

    Returns:
        The head and the tail; no tail if the outputs of the layer are those of the graph.
    """
    inputs, outputs = _get_only(inputs), _get_only(outputs)
    outputs, uses = list_uses(inputs, outputs)
    use = _find_use(uses, path[0], name)
    inner = use.operation
    if len(use.outputs) != 1:
        raise ValueError(
            f"Layer '{inner.name}' of network '{name}' should have a single output. "
            f"Received: {len(use.outputs)} outputs"
        )
    (cut,) = use.outputs
    after = None if cut is outputs else _make_tail(cut, outputs, uses)
    if len(path) == 1:
        return keras.Model(inputs, cut), after
    if not isinstance(inner, keras.Model):
        raise ValueError(
            f"`layer` should be a path through models to a layer. Received: '{inner.name}', which "
            f"is a {type(inner).__name__}, before '{path[1]}'"
        )
    # The part of the graph before the inner model, and the two parts of the inner model.
    arguments = (*use.args, *use.kwargs.values())
    before = keras.Model(inputs, next(x for x in arguments if _has_tensors(x)))
    first, second = _split(*_to_graph(inner), path[1:], inner.name)
    head = keras.Model(inputs, first(before(inputs)))
    if second is None:
        return head, after
    if after is None:
        return head, second
    hidden = keras.Input(batch_shape=first.output.shape, dtype=first.output.dtype)
    return head, keras.Model(hidden, after(second(hidden)))


def _nothing_after(layer_name: str) -> ValueError:
    return ValueError(
        f"Layer '{layer_name}' should have other layers after it. "
        "Received: a layer whose outputs are outputs of the network"
    )


def _has_tensors(structure: Any) -> bool:
    return any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(structure))


def _find_use(uses: Sequence[Use], layer: str | keras.Layer, network_name: str) -> Use:
    found = [use for use in uses if use.operation is layer or use.operation.name == layer]
    if not found:
        names = list(dict.fromkeys(use.operation.name for use in reversed(uses)))
        name = getattr(layer, "name", layer)
        raise ValueError(
            f"`layer` should be one of the layers of network '{network_name}', which are {names}, "
            f"or be part of one that is a model itself. Received: layer={name!r}"
        )
    name, count = found[0].operation.name, len({id(use.operation) for use in found})
    if count > 1:
        raise ValueError(
            f"`layer` should be unique in network '{network_name}'. "
            f"Received: layer={name!r}, the name of {count} layers"
        )
    if len(found) > 1:
        raise ValueError(
            f"Layer '{name}' should be used once by network '{network_name}'. "
            f"Received: a layer that is used {len(found)} times"
        )
    return found[0]


def _make_tail(cut: Tensor, outputs: Tensors, uses: Sequence[Use]) -> keras.Model:
    """Creates a model of the part of a graph after one of its tensors."""
    names = {id(x): use.operation.name for use in uses for x in use.outputs}
    layer_name = names[id(cut)]
    if any(cut is x for x in keras.tree.flatten(outputs)):
        raise _nothing_after(layer_name)
    after = {id(cut)}
    while True:  # until no more tensors are found that depend on the cut
        dependent = [
            use
            for use in uses
            if any(id(x) in after for x in use.inputs)
            and not all(id(x) in after for x in use.outputs)
        ]
        if not dependent:
            break
        after.update(id(x) for use in dependent for x in use.outputs)
    consumed = [
        x
        for use in uses
        if any(id(y) in after and y is not cut for y in use.outputs)
        for x in use.inputs
    ]
    crossing = [x for x in [*consumed, *keras.tree.flatten(outputs)] if id(x) not in after]
    if crossing:
        crossing_names = list(dict.fromkeys(f"'{names[id(x)]}'" for x in crossing))
        raise ValueError(
            f"The outputs of layer '{layer_name}' should be all that later layers depend on. "
            f"Received: a network in which the outputs of {', '.join(crossing_names)} bypass it. "
            "Split it after these paths have joined, or before they branch off"
        )
    return keras.Model(cut, outputs)


def _check_composition(
    network: keras.Model, inputs: Tensors, head: keras.Model, tail: keras.Model
) -> None:
    """Checks on random inputs that head and tail together return what the network returns."""
    random = np.random.default_rng(0)

    def draw(x: Tensor) -> Tensor:
        shape = [2, *(8 if length is None else length for length in x.shape[1:])]
        is_float = keras.backend.is_float_dtype(x.dtype)
        values = random.normal(size=shape) if is_float else np.zeros(shape)
        return ops.convert_to_tensor(values.astype("float32"), dtype=x.dtype)

    x = keras.tree.map_structure(draw, inputs)
    for expected, value in zip(
        keras.tree.flatten(network(x)), keras.tree.flatten(tail(head(_get_only(x)))), strict=True
    ):
        expected, value = (np.asarray(ops.convert_to_numpy(y), float) for y in (expected, value))
        if not np.allclose(value, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()):
            raise ValueError(
                f"The two parts of network '{network.name}' should return what the network returns."
                f" Received: outputs that differ by up to {np.abs(value - expected).max()}"
            )
