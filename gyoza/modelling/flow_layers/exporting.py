"""Export of flows, for processes without gyoza."""

import importlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import ops

from gyoza.modelling.functions.checks import check_choice
from gyoza.modelling.training.files import WritesFiles
from gyoza.typing import Tensor, Tensors

__all__ = ["ExportsEndpoints"]

# Those that other formats than SavedModel have, too.
_ENDPOINTS = ("call", "log_prob", "invert")


class _GivenSeed(keras.random.SeedGenerator):
    """A generator of seeds that starts from a tensor, and has no variable.

    Args:
        seed: An integer tensor, without axes. The first seed is what Keras makes of that integer.
    """

    def __init__(self, seed: Tensor) -> None:
        self.seed = ops.cast(seed, "int64")
        self.count = 0

    def next(self, ordered: bool = True) -> Tensor:
        """Returns the next seed."""
        seed = ops.stack([self.seed, ops.full((), self.count, "int64")])
        self.count += 1
        return seed


class _Endpoint(keras.Model):
    """A method of a model as the `call` of another model, of the same weights.

    Args:
        model: The model.
        run: The method.
    """

    def __init__(self, model: keras.Model, run: Callable[..., Any]) -> None:
        super().__init__(name=f"{model.name}_{run.__name__}", dtype=model.dtype_policy)
        self.model = model
        self.run = run
        self.built = True

    def call(self, inputs: Tensor, *others: Tensor) -> Tensors:
        """Runs the method."""
        return self.run(inputs, *others)


def _make_endpoints(
    model: keras.Model, inputs: keras.InputSpec, context: keras.InputSpec | None
) -> dict[str, tuple[Callable[..., Tensors], list[keras.InputSpec]]]:
    """Returns, by name, functions of tensors, and descriptions of these.

    Args:
        model: The flow.
        inputs: A description of its inputs.
        context: One of their context, or `None` without one.
    """
    shape, _ = model.compute_output_shape(inputs.shape)
    outputs = keras.InputSpec(shape=shape, dtype=model.compute_dtype, name="outputs")
    count = keras.InputSpec(shape=(), dtype="int32", name="sample_count")
    seed = keras.InputSpec(shape=(), dtype="int32", name="seed")

    def call(inputs: Tensor, context: Tensor | None = None) -> Tensors:
        return model(inputs, context)

    def log_prob(inputs: Tensor, context: Tensor | None = None) -> Tensor:
        return model.log_prob(inputs, context)

    def invert(outputs: Tensor, context: Tensor | None = None) -> Tensor:
        return model.invert(outputs, context)

    def sample(sample_count: Tensor, seed: Tensor, context: Tensor | None = None) -> Tensor:
        if context is not None:  # which may be one for all samples
            context = ops.broadcast_to(context, (sample_count, *context.shape[1:]))
        return model.sample(sample_count, _GivenSeed(seed), context)

    contexts = [] if context is None else [context]
    return {
        "call": (call, [inputs, *contexts]),
        "log_prob": (log_prob, [inputs, *contexts]),
        "invert": (invert, [outputs, *contexts]),
        "sample": (sample, [count, seed, *contexts]),
    }


def _expand(graph: Any, onnx: Any) -> set[str]:
    """Writes operations that ONNX does not have by those that it has, in place, but inner graphs.

    Args:
        graph: The graph, of numbers in float32.
        onnx: The module of that name.

    Returns:
        The names of those operations for which that is not known.
    """
    make = onnx.helper.make_node
    nodes, unknown = [], set[str]()
    for node in graph.node:
        if node.op_type not in ("Log1p", "Expm1"):
            if not node.domain and not onnx.defs.has(node.op_type):
                unknown.add(node.op_type)
            nodes.append(node)
            continue
        (x,), (y,) = node.input, node.output
        one, between = f"{y}_one", f"{y}_between"
        nodes.append(make("Constant", [], [one], value_float=1.0))
        if node.op_type == "Log1p":
            nodes += [make("Add", [x, one], [between]), make("Log", [between], [y])]
        else:
            nodes += [make("Exp", [x], [between]), make("Sub", [between, one], [y])]
    graph.ClearField("node")
    graph.node.extend(nodes)
    return unknown


def _find_graphs(graph: Any, onnx: Any) -> list[Any]:
    """Returns a graph, and those within its nodes."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    inner = [one.g for one in attributes if one.type == onnx.AttributeProto.GRAPH]
    return [graph, *(found for one in inner for found in _find_graphs(one, onnx))]


def _choose(graphs: list[Any]) -> None:
    """Writes by `Where` what one converter makes of it, in place: c x + y (1 - c), with casts.

    That would be NaN where the other of the two is NaN or infinite, as guards against this are for.
    """
    nodes = [node for graph in graphs for node in graph.node]
    makers = {output: node for node in nodes for output in node.output}

    def find(name: str, *operations: str) -> Any:
        """Returns the node at the start of a chain of operations that ends with a tensor."""
        node = makers.get(name)
        if node is None or node.op_type != operations[-1]:
            return None
        return node if len(operations) == 1 else find(node.input[0], *operations[:-1])

    for node in nodes:
        products = [find(name, "Mul") for name in node.input] if node.op_type == "Add" else []
        if len(products) != 2 or None in products:
            continue
        (given, x), (y, opposite) = (product.input for product in products)
        cast, negation = find(given, "Cast"), find(opposite, "Not", "Cast")
        if cast is not None and negation is not None and cast.input[0] == negation.input[0]:
            node.op_type = "Where"
            node.ClearField("input")
            node.input.extend([cast.input[0], x, y])


def _finish_onnx(path: Path) -> None:
    """Makes sure that a file can be loaded and chooses among numbers, which converters do not.

    Raises:
        ValueError: If ONNX does not have an operation. Then the file is deleted.
    """
    try:
        onnx = importlib.import_module("onnx")
    except ImportError:  # then no converter that leaves something to do has been at work
        return
    model = onnx.load(path)
    graphs = _find_graphs(model.graph, onnx)
    _choose(graphs)
    # Inner ones first, since a graph is given copies of its nodes.
    unknown = set[str]().union(*(_expand(graph, onnx) for graph in reversed(graphs)))
    if unknown:
        path.unlink()
        raise ValueError(
            "ONNX cannot express all operations of the model: it has no "
            f"{', '.join(sorted(unknown))}. `format='tf_saved_model'` has all."
        )
    onnx.save(model, path)


class ExportsEndpoints(WritesFiles):
    """The part of a flow model that is exported: not `call` alone, but also densities and samples.

    A class that derives from it is a :class:`~gyoza.modelling.flow_layers.density.Density`.
    """

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",  # noqa: A002 - Keras's name
        verbose: bool | None = None,
        input_signature: Any = None,
        endpoint: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Writes the flow to a file that is run without gyoza and Keras.

        A TensorFlow SavedModel has one function, or endpoint, for each of

        - `serve(inputs)`, and `call(inputs)`, which is the same: outputs and log-determinants,
        - `log_prob(inputs)`: log-densities,
        - `invert(outputs)`: inputs,
        - `sample(sample_count, seed)`: samples. The same seed returns the same ones; as
          :meth:`sample` does with it, where the base distribution draws once. On JAX, files have no
          such endpoint, since the number of rows cannot be an argument, and there are none of
          layers that solve linear systems, such as :class:`~gyoza.modelling.flow_layers.LULinear`
          and :class:`~gyoza.modelling.flow_layers.Reflection`: write those on TensorFlow.

        All are of any batch size. Those of a conditional flow have another argument, `context`, one
        row per instance (for `sample`, or one for all), but `serve` and `call`, which take
        `{"inputs": …, "context": …}`.

        Files in other formats have one endpoint each, which is none for samples: invert numbers
        from the base distribution. ONNX expresses most layers, but not continuous flows and the
        inverse of :class:`~gyoza.modelling.flow_layers.Residual`. LiteRT runs couplings and
        autoregressive flows. On JAX, there are SavedModel and ONNX; on PyTorch, ONNX and PyTorch's
        own format. What writes ONNX there knows fewer operations: those of affine and additive
        couplings, and of :class:`~gyoza.modelling.flow_layers.MaskedAffine` in one direction.
        Models that have been saved load on all backends: load one on TensorFlow to export it there
        in a format that another backend does not have.

        Args:
            filepath: Where to write it: a folder for a SavedModel, otherwise a file, which ends in
                `.tflite` for LiteRT.
            format: `"tf_saved_model"`; `"onnx"`, which needs the packages `onnx` and `tf2onnx`, or
                `jax2onnx` on JAX; `"litert"`; or another format of `keras.Model.export`.
            verbose: See `keras.Model.export`.
            input_signature: Descriptions of the arguments, to fix the batch size, say. Of a
                SavedModel, `serve` is then the only endpoint.
            endpoint: `"call"`, `"log_prob"` or `"invert"`: which of them a file holds that holds
                one, `call` if omitted.
            **kwargs: See `keras.Model.export`.

        Raises:
            ValueError: If the flow is not built, there is no such endpoint, format, or one in this
                format on this backend, or ONNX lacks an operation, which is then named.

        Example:

            >>> import tempfile
            >>> import tensorflow as tf
            >>> flow = gyoza.applications.RealNVP(layer_count=2, hidden_sizes=[8])
            >>> x = np.random.default_rng(0).normal(size=[7, 3]).astype("float32")
            >>> flow.adapt(x)
            >>> folder = tempfile.mkdtemp()
            >>> flow.export(folder, verbose=False)
            >>> exported = tf.saved_model.load(folder)  # in whatever process, without gyoza
            >>> z, log_det = exported.call(x)
            >>> bool(np.allclose(exported.invert(z), x, atol=1e-4))
            True
            >>> bool(np.allclose(exported.log_prob(x), flow.log_prob(x), atol=1e-4))
            True
            >>> tuple(exported.sample(5, 0).shape)
            (5, 3)
        """
        backend = keras.backend.backend()
        inputs, context = self._describe_inputs()
        if inputs is None:
            raise ValueError(
                f"Model '{self.name}' should be built before it is exported: call or fit it on "
                "data, or call `build` with their shape."
            )
        if endpoint is not None:
            check_choice("endpoint", endpoint, _ENDPOINTS)
        endpoints = _make_endpoints(self, inputs, context)
        if format == "tf_saved_model":
            if endpoint is not None:
                raise ValueError(
                    "`endpoint` should be given for formats that hold one; a SavedModel has all of "
                    f"them. Received: endpoint={endpoint!r}"
                )
            if backend == "torch":
                raise ValueError(
                    "A SavedModel should be written on TensorFlow or JAX: save the model as "
                    "'.keras', and load and export it with KERAS_BACKEND=tensorflow. "
                    f"Received: format={format!r} on backend {backend!r}"
                )
            if input_signature is None:
                return self._write_archive(filepath, endpoints, verbose is not False, **kwargs)
            return super().export(filepath, format, verbose, input_signature, **kwargs)
        run, described = endpoints[endpoint or "call"]
        signature = described if input_signature is None else input_signature
        with warnings.catch_warnings():
            # By PyTorch, wherever Python looks at a shape, which is not what numbers depend on.
            warnings.filterwarnings("ignore", ".* might cause the trace to be incorrect")
            _Endpoint(self, run).export(
                filepath, format, verbose, input_signature=signature, **kwargs
            )
        if format == "onnx":
            _finish_onnx(Path(filepath))
        return None

    def _write_archive(
        self,
        filepath: str | os.PathLike[str],
        endpoints: dict[str, Any],
        is_verbose: bool,
        **kwargs: Any,
    ) -> None:
        """Writes a SavedModel of all endpoints that the backend has."""
        is_jax = keras.backend.backend() == "jax"
        if is_jax:  # derivatives of some layers cannot be written
            kwargs["jax2tf_kwargs"] = {"with_gradient": False, **kwargs.get("jax2tf_kwargs", {})}
        archive = keras.export.ExportArchive()
        archive.track(self)
        _, (inputs, *contexts) = endpoints.pop("call")
        if contexts:
            inputs = {"inputs": inputs, "context": contexts[0]}
        serve = archive.add_endpoint("serve", self.__call__, [inputs], **kwargs)
        serve.get_concrete_function()
        archive.add_endpoint("call", serve)
        if is_jax:
            endpoints.pop("sample")
        written = {"call": serve}
        for name, (run, described) in endpoints.items():
            written[name] = archive.add_endpoint(name, run, described, **kwargs)
        for name, function in written.items() if is_jax else ():
            graph = function.get_concrete_function().graph.as_graph_def()
            if b"lapack_" in graph.SerializeToString():
                raise ValueError(
                    f"TensorFlow could not run '{name}' as JAX writes it: a layer solves linear "
                    "systems. Save the model as '.keras', and load and export it with "
                    f"KERAS_BACKEND=tensorflow. Received: model={self.name}"
                )
        archive.write_out(filepath, verbose=is_verbose)
