"""Cutting a network in two at one of its layers."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

__all__ = ["split_network"]


def split_network(network: keras.Model, layer_name: str) -> tuple[keras.Model, keras.Model]:
    r"""Splits a network at a layer into a head :math:`h` and a tail :math:`g`.

    The network is :math:`g \circ h`. Both parts consist of the layers of the network, not of copies
    of them: weights that are trained later change in all three. The parts are put together again on
    a few random inputs, to see that they give what the network gives.

    Args:
        network: A trained Keras model: sequential, functional, or a subclass of `keras.Model` whose
            `call` consists of Keras layers and operations. A subclassed model has to be built, and
            has one argument besides `training`, which may be a list or dictionary of tensors.
        layer_name: The name of the layer whose outputs are the hidden representation. In a model
            within the network, `"model/layer"`.

    Returns:
        The head :math:`h`, from the inputs of the network to the outputs of the layer, and the tail
        :math:`g`, from there to the outputs of the network. Both are functional Keras models.

    Raises:
        TypeError: If `network` is not a Keras model, or `layer_name` is not a string.
        ValueError: If there is no such layer, if it is the last, is used more than once or has
            several outputs, if other tensors than its outputs pass from the head to the tail, as
            those of a skip connection do, if the model is not built or its `call` cannot be traced
            by symbolic tensors, or if the parts do not give what the network gives.

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
    if not isinstance(network, keras.Model):
        raise TypeError(
            "`network` should be a `keras.Model`. "
            f"Received: network={network} (of type {type(network)})"
        )
    if not isinstance(layer_name, str):
        raise TypeError(f"`layer_name` should be a string. Received: layer_name={layer_name}")
    inputs, outputs = _to_graph(network)
    head, tail = _split(inputs, outputs, layer_name.split("/"), network.name)
    _check_composition(network, inputs, head, tail, layer_name)
    return head, tail


def _to_graph(network: keras.Model) -> tuple[Any, Any]:
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
    shapes = (network.get_build_config() or {}).get("input_shape")
    if shapes is None:
        raise _not_traceable(network, "a network whose `get_build_config` has no input shape")

    def make_input(shape: Any, name: str | None = None) -> Any:
        return keras.Input(batch_shape=(None, *shape[1:]), dtype=network.input_dtype, name=name)

    if isinstance(shapes, dict):
        inputs = {name: make_input(shape, name) for name, shape in shapes.items()}
    else:
        inputs = keras.tree.map_shape_structure(make_input, shapes)
    try:
        # Layers that are called on symbolic tensors remember their connections.
        outputs = network.call(inputs)
    except _TRACING_ERRORS as error:
        raise _not_traceable(
            network, f"a `call` that raises {type(error).__name__}: {error}"
        ) from error
    if not all(isinstance(y, keras.KerasTensor) for y in keras.tree.flatten(outputs)):
        raise _not_traceable(network, "a `call` that returns something else than tensors")
    return inputs, outputs


# What the code of users, and Keras, raise where symbolic tensors cannot be used.
_TRACING_ERRORS = (
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
)


def _not_traceable(network: keras.Model, received: str) -> ValueError:
    """Makes the error for networks that are not made of layers and operations alone."""
    return ValueError(
        f"Network '{network.name}' should have a single argument besides `training`, and a `call` "
        "that consists of Keras layers and operations, so that symbolic tensors can take the same "
        f"way through it as data. Received: {received}"
    )


def _split(
    inputs: Any, outputs: Any, path: list[str], name: str
) -> tuple[keras.Model, keras.Model]:
    """Splits a graph at the layer that the first entry of `path` names, or in its inside."""
    node = _find_node(outputs, path[0], name)
    cut = keras.tree.flatten(node.output_tensors)
    if len(cut) != 1:
        raise ValueError(
            f"Layer '{path[0]}' of network '{name}' should have a single output. "
            f"Received: {len(cut)} outputs"
        )
    if len(path) == 1:
        return _cut_at(inputs, cut[0], outputs, path[0])
    inner = node.operation
    if not isinstance(inner, keras.Model):
        raise ValueError(
            f"`layer_name` should lead through models to a layer. Received: '{path[0]}', which is "
            f"a {type(inner).__name__}, before '{path[1]}'"
        )
    # What comes before the inner model, its two parts, and what comes after it.
    arguments = (*node.arguments.args, *node.arguments.kwargs.values())
    before = keras.Model(inputs, next(x for x in arguments if _has_tensors(x)))
    first, second = _split(*_to_graph(inner), path[1:], inner.name)
    _, after = _cut_at(inputs, cut[0], outputs, path[0])
    head = keras.Model(inputs, first(before(inputs)))
    hidden = keras.Input(batch_shape=first.output.shape, dtype=first.output.dtype)
    return head, keras.Model(hidden, after(second(hidden)))


def _has_tensors(structure: Any) -> bool:
    return any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(structure))


def _nodes(outputs: Any) -> Iterator[Any]:
    """Yields all uses of layers and operations that `outputs` depend on, the last ones first."""
    seen = set()
    tensors = keras.tree.flatten(outputs)
    while tensors:
        operation, index, _ = tensors.pop()._keras_history
        node = operation._inbound_nodes[index]
        if id(node) not in seen:
            seen.add(id(node))
            tensors += node.input_tensors
            yield node


def _find_node(outputs: Any, layer_name: str, network_name: str) -> Any:
    nodes = list(_nodes(outputs))
    found = [node for node in nodes if node.operation.name == layer_name]
    if not found:
        names = list(dict.fromkeys(node.operation.name for node in reversed(nodes)))
        raise ValueError(
            f"`layer_name` should be one of the layers of network '{network_name}', which are "
            f"{names}. Received: layer_name={layer_name!r}"
        )
    if len(found) > 1:
        raise ValueError(
            f"Layer '{layer_name}' should be used once by network '{network_name}'. "
            f"Received: a layer that is used {len(found)} times"
        )
    return found[0]


def _cut_at(
    inputs: Any, cut: Any, outputs: Any, layer_name: str
) -> tuple[keras.Model, keras.Model]:
    """Splits a graph at one of its tensors."""
    if any(cut is x for x in keras.tree.flatten(outputs)):
        raise ValueError(
            f"Layer '{layer_name}' should have other layers after it. "
            "Received: a layer that gives outputs of the network"
        )
    after = {id(cut)}
    nodes = list(_nodes(outputs))
    while True:  # until no more tensors are found that depend on the cut
        dependent = [
            node
            for node in nodes
            if any(id(x) in after for x in node.input_tensors)
            and not all(id(x) in after for x in node.output_tensors)
        ]
        if not dependent:
            break
        after.update(id(x) for node in dependent for x in node.output_tensors)
    consumed = [
        x
        for node in nodes
        if any(id(y) in after and y is not cut for y in node.output_tensors)
        for x in node.input_tensors
    ]
    crossing = [x for x in [*consumed, *keras.tree.flatten(outputs)] if id(x) not in after]
    if crossing:
        names = list(dict.fromkeys(f"'{x._keras_history[0].name}'" for x in crossing))
        raise ValueError(
            f"The outputs of layer '{layer_name}' should be all that later layers depend on. "
            f"Received: a network in which the outputs of {', '.join(names)} bypass it. Split it "
            "where these have been joined, or before they part"
        )
    return keras.Model(inputs, cut), keras.Model(cut, outputs)


def _check_composition(
    network: keras.Model, inputs: Any, head: keras.Model, tail: keras.Model, layer_name: str
) -> None:
    """Checks on random inputs that head and tail give what the network gives."""
    random = np.random.default_rng(0)

    def draw(x: Any) -> Any:
        shape = [2, *(8 if length is None else length for length in x.shape[1:])]
        is_float = keras.backend.is_float_dtype(x.dtype)
        values = random.normal(size=shape) if is_float else np.zeros(shape)
        return ops.convert_to_tensor(values.astype("float32"), dtype=x.dtype)

    x = keras.tree.map_structure(draw, inputs)
    for expected, value in zip(
        keras.tree.flatten(network(x)), keras.tree.flatten(tail(head(x))), strict=True
    ):
        expected, value = (np.asarray(ops.convert_to_numpy(y), float) for y in (expected, value))
        if not np.allclose(value, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()):
            raise ValueError(
                f"The two parts of network '{network.name}' at layer '{layer_name}' should give "
                "what the network gives. Received: outputs that differ by up to "
                f"{np.abs(value - expected).max()}"
            )
