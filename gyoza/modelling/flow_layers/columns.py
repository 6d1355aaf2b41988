"""Layers for chosen columns of vectors, such as those of a table."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.adaptation import is_left_alone
from gyoza.modelling.batches import iterate_batches
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.modelling.flow_layers.conditional import TakesContext
from gyoza.modelling.flow_layers.invertible import Invertible
from gyoza.modelling.functions.arguments import given
from gyoza.modelling.functions.checks import check_instance, is_integer
from gyoza.modelling.functions.tensors import make_selector
from gyoza.modelling.tables import describe_columns
from gyoza.typing import Array, Data, Shape, Tensor

__all__ = ["Columns"]


@keras.saving.register_keras_serializable(package="gyoza")
class Columns(TakesContext, FlowLayer):
    r"""Applies layers to chosen columns, and passes all others unchanged.

    With layers :math:`f_k` of disjoint groups of columns :math:`I_k`,

    .. math::
        y_{I_k} = f_k(x_{I_k}), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| =
        \sum_k \log \left| \det \frac{\partial f_k(x_{I_k})}{\partial x_{I_k}} \right|.

    Columns are dimensions along the last axis. A flow of a table starts with this layer: positive
    columns are mapped to all numbers, bounded ones too, and integers are made continuous, while the
    likelihood stays that of the table. :class:`gyoza.data.Table` proposes one.

    Args:
        layers: A dictionary. Its keys are a column, or a tuple of columns that are transformed
            together: indices, of which negative ones count from the end, or names. Its values are
            the layer, or the list of layers that are applied one after the other; they keep the
            number of columns. Or a list of such pairs of columns and layers.
        names: The names of all columns, in order. They are needed where `layers` has names as keys,
            and if omitted then, they are taken from the first data frame that the model is given
            (before it is built). A model rejects data frames with other names.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        TypeError: If `layers` holds what is not a flow layer, or columns are neither integers nor
            strings.
        ValueError: If a column belongs to two layers or does not exist, names are not distinct, or
            a layer changes the number of columns.

    Attributes:
        names: The names of all columns, or `None`.

    Example:

        >>> from gyoza.modelling import flow_layers
        >>> layer = flow_layers.Columns({
        ...     0: flow_layers.Inverse(flow_layers.Softplus()),
        ...     2: flow_layers.UniformDequantization(levels=8, seed=0),
        ... })
        >>> x = np.array([[0.5, -1.0, 3.0]], "float32")  # a positive, a real and an integer column
        >>> outputs, log_det = layer(x)
        >>> keras.ops.convert_to_numpy(outputs[:, :2]).round(4)
        array([[-0.4328, -1.    ]], dtype=float32)
        >>> keras.ops.convert_to_numpy(layer.invert(outputs)).round(4)
        array([[ 0.5, -1. ,  3. ]], dtype=float32)
    """

    def __init__(
        self,
        layers: Mapping[Any, Any] | Iterable[tuple[Any, Any]],
        names: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        pairs = list(layers.items() if isinstance(layers, Mapping) else layers)
        self._keys = tuple(_check_key(key) for key, _ in pairs)
        chains = [_check_chain(chain) for _, chain in pairs]
        self._ends = tuple(np.cumsum([len(chain) for chain in chains], dtype=int).tolist())
        self._flow_layers_ = [layer for chain in chains for layer in chain]
        self.names: tuple[str, ...] | None = None
        if names is not None:
            self._set_names(tuple(names))

    def _set_names(self, names: tuple[str, ...]) -> None:
        if len(set(names)) < len(names):
            raise ValueError(f"`names` should be distinct. Received: names={list(names)}")
        self.names = names

    def take_names(self, names: tuple[str, ...]) -> None:
        """Takes the names of columns from a data frame, or checks that it has the right ones.

        Models call it with the names of each data frame that they are given.

        Args:
            names: The names of all columns, in order.

        Raises:
            ValueError: If they are not those that the layer has already.
        """
        uses_names = any(isinstance(column, str) for key in self._keys for column in key)
        if self.names is None and uses_names:
            self._set_names(names)
        if self.names is not None and tuple(names) != self.names:
            raise ValueError(
                f"The columns of a data frame for '{self.name}' should be {list(self.names)}, in "
                f"this order. Received: {list(names)}"
            )

    @property
    def accepts_context(self) -> bool:
        """Whether one of the layers takes a context."""
        return any(layer.accepts_context for layer in self._flow_layers_)

    @property
    def preserves_volume(self) -> bool:  # type: ignore[override]
        """Whether all layers preserve volume."""
        return all(getattr(layer, "preserves_volume", False) for layer in self._flow_layers_)

    @property
    def recomputable(self) -> bool:
        """Whether memory-efficient models invert the layer, which depends on its layers."""
        return all(layer.recomputable for layer in self._flow_layers_)

    @property
    def _chains(self) -> list[list[keras.Layer]]:
        """The layers of each key."""
        starts = (0, *self._ends)
        pairs = zip(starts, self._ends, strict=False)
        return [list(self._flow_layers_[start:end]) for start, end in pairs]

    def build(self, input_shape: Shape | None = None) -> None:
        """Finds the columns, and builds the layers for them; see :meth:`FlowLayer.build`."""
        if input_shape is None or len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(
                "The inputs should have a batch axis, and a last axis of known length, along "
                f"which columns are chosen. Received: input_shape={input_shape}"
            )
        count = int(input_shape[-1])
        groups = [self._find(key, count) for key in self._keys]
        chosen = [column for group in groups for column in group]
        twice = sorted({column for column in chosen if chosen.count(column) > 1})
        if twice:
            raise ValueError(
                "`layers` should hold each column once. Received: layers with the keys "
                f"{list(self._keys)}, in which {self._describe(twice)} are repeated"
            )
        groups.append([column for column in range(count) if column not in set(chosen)])
        self._groups = tuple(map(tuple, groups))
        self._select = [make_selector(np.array(group, int)) for group in groups]
        order = np.argsort([column for group in groups for column in group])
        self._restore = make_selector(order)
        self._shape_, self._axes_ = [count], [len(input_shape) - 1]
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: count})
        for group, chain in zip(groups, self._chains, strict=False):
            shape = (None, *input_shape[1:-1], len(group))
            x = keras.KerasTensor(shape, dtype=self.compute_dtype)
            for layer in chain:
                x, _ = layer(x, **self._arguments(layer, self._describe_context()))
                if tuple(x.shape) != shape:
                    raise ValueError(
                        "`layers` should keep the shape of their inputs, "
                        f"{shape}, for columns {self._describe(group)}. Received: "
                        f"{type(layer).__name__}, whose outputs have shape {tuple(x.shape)}"
                    )

    def _find(self, key: tuple[int | str, ...], count: int) -> list[int]:
        """Returns the indices of columns."""
        if self.names is not None and len(self.names) != count:
            raise ValueError(
                f"`names` should have one name for each of the {count} columns of the inputs. "
                f"Received: names={list(self.names)}"
            )
        found = []
        for column in key:
            if isinstance(column, str) and self.names is None:
                raise ValueError(
                    f"`names` should be given to '{self.name}', which chooses columns by name: the "
                    "names of all columns, in order. Or adapt or fit the model to a data frame "
                    f"first. Received: names=None, and the column {column!r}"
                )
            if isinstance(column, str) and column in (self.names or ()):
                found.append((self.names or ()).index(column))
            elif not isinstance(column, str) and -count <= column < count:
                found.append(column % count)
            else:
                known = f"one of {list(self.names)}" if self.names else f"less than {count}"
                raise ValueError(f"Columns should be {known}. Received: {column!r}")
        return found

    def _describe(self, columns: Iterable[int]) -> str:
        return describe_columns(columns, self.names)

    def _arguments(self, layer: keras.Layer, context: Tensor | None) -> dict[str, Any]:
        return given(context=context) if layer.accepts_context else {}

    def _prepare_context(self, inputs: Tensor, context: Tensor | None) -> Tensor | None:
        context = super()._prepare_context(inputs, context)
        if context is not None and not self.accepts_context:
            raise ValueError(
                f"'{self.name}' has no layers that take a context. "
                f"Received: context.shape={tuple(context.shape)}"
            )
        return context

    def _prepare_inversion(self, outputs: Tensor, context: Tensor | None = None) -> None:
        self._prepare_context(outputs, context)
        if not self.built:
            self.build(tuple(outputs.shape))

    def _run(self, x: Tensor, context: Tensor | None, method: str) -> tuple[Tensor, Tensor]:
        """Runs a method of each layer on its columns, and adds up what it returns besides them.

        Args:
            x: Inputs or outputs, `[batch, ..., columns]`.
            context: The context, or `None`.
            method: `"__call__"`, or that of inverses, where the last layer comes first.

        Returns:
            The pair of outputs or inputs, and log-determinants, if the method returns some.
        """
        parts, log_det = [], self.sum_log_det(x, None)
        for select, chain in zip(self._select, [*self._chains, []], strict=True):
            part = select(x)
            for layer in chain if method == "__call__" else reversed(chain):
                result = getattr(layer, method)(part, **self._arguments(layer, context))
                if method == "invert":
                    part = result
                else:
                    part, of_layer = result
                    log_det = log_det + ops.cast(of_layer, log_det.dtype)
            parts.append(ops.cast(part, self.compute_dtype))
        return self._restore(ops.concatenate(parts, axis=-1)), log_det

    def call(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Runs the layers on their columns.

        Args:
            inputs: Floating-point tensor `[batch, ..., columns]`.
            context: The context that layers are given, if they take one.

        Returns:
            The pair of outputs, in the shape of `inputs`, and log-determinants, `[batch]`.
        """
        return self._run(inputs, context, "__call__")

    def invert(self, outputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps outputs of `call` back to its inputs.

        Args:
            outputs: See :meth:`FlowLayer.invert`.
            context: The context that `call` was given.

        Returns:
            The reconstructed inputs, `[batch, ..., columns]`.
        """
        return self._run(outputs, context, "invert")[0]

    def invert_and_log_det(
        self, outputs: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`FlowLayer.invert_and_log_det`."""
        return self._run(outputs, context, "invert_and_log_det")

    def adapt(self, data: Data, batch_size: int = 4096) -> None:
        """Adapts the layers to their columns, and checks that these are what the layers take.

        Args:
            data: The inputs; see :meth:`FlowModel.adapt`.
            batch_size: Number of instances that are processed at a time.

        Raises:
            ValueError: If a layer cannot map its columns to finite numbers, such as the inverse of
                a `Softplus` those that are not positive. The message names columns and values.
        """
        batches = list(iterate_batches(data, batch_size))
        if not batches:
            raise ValueError("`data` should hold at least one instance. Received: no instance")
        batches = [batch if isinstance(batch, dict) else {"inputs": batch} for batch in batches]
        if not self.built:
            self(**{name: ops.convert_to_tensor(part[:1]) for name, part in batches[0].items()})
        for group, chain in zip(self._groups, self._chains, strict=False):
            parts = [{**batch, "inputs": batch["inputs"][..., list(group)]} for batch in batches]
            for layer in chain:
                parts = self._adapt_layer(layer, group, parts, batch_size)

    def _adapt_layer(
        self,
        layer: keras.Layer,
        group: tuple[int, ...],
        batches: list[dict[str, Array]],
        batch_size: int,
    ) -> list[dict[str, Array]]:
        """Adapts one layer, and returns batches with its outputs instead of its inputs."""
        kept = {"inputs", "context"} if layer.accepts_context else {"inputs"}
        given_batches = [{name: batch[name] for name in kept & batch.keys()} for batch in batches]
        try:
            if hasattr(layer, "adapt") and not is_left_alone(layer):
                layer.adapt(given_batches, batch_size)
            outputs = [layer(**batch)[0] for batch in given_batches]
        except ValueError as error:
            raise ValueError(f"Column {self._describe(group)}: {error}") from error
        outputs = [ops.convert_to_numpy(batch) for batch in outputs]
        inputs = np.concatenate([batch["inputs"] for batch in batches])
        is_lost = ~np.isfinite(np.concatenate(outputs)) & np.isfinite(inputs)
        if np.any(is_lost):
            row = int(np.argwhere(is_lost)[0][0])
            layer = getattr(layer, "layer", layer)
            raise ValueError(
                f"Column {self._describe(group)} should hold numbers that `{type(layer).__name__}` "
                f"maps to finite ones. Received: {np.sum(is_lost)} others, the first one "
                f"{inputs[is_lost][0]:.6g} in row {row}"
            )
        return [{**batch, "inputs": output} for batch, output in zip(batches, outputs, strict=True)]

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        config = super().get_config()
        del config["shape"], config["axes"]
        serialize = keras.saving.serialize_keras_object
        for layer in self._flow_layers_:
            serialize(layer)  # only the second configuration tells that it is shared
        return {
            **config,
            "layers": [
                [list(key), [serialize(layer) for layer in chain]]
                for key, chain in zip(self._keys, self._chains, strict=True)
            ],
            "names": None if self.names is None else list(self.names),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Columns":
        """Makes a layer from what `get_config` returned.

        Args:
            config: The configuration.

        Returns:
            A layer with the same configuration and weights of its own.
        """
        deserialize = keras.saving.deserialize_keras_object
        layers = [
            (tuple(key), [deserialize(layer) for layer in chain]) for key, chain in config["layers"]
        ]
        return cls(**{**config, "layers": layers})


def _check_key(key: Any) -> tuple[int | str, ...]:
    """Returns the columns of a key of `layers`."""
    columns = tuple(key) if isinstance(key, Iterable) and not isinstance(key, str) else (key,)
    if not columns or not all(isinstance(c, str) or is_integer(c) for c in columns):
        raise TypeError(
            "The keys of `layers` should be columns, or tuples of these: indices or names. "
            f"Received: {key!r}"
        )
    return tuple(c if isinstance(c, str) else int(c) for c in columns)


def _check_chain(chain: Any) -> list[keras.Layer]:
    """Returns a layer, or layers, as a list."""
    chain = list(chain) if isinstance(chain, list | tuple) else [chain]
    for layer in chain:
        what = "flow layers, or lists of flow layers"
        check_instance("the values of layers", layer, Invertible, what)
    return chain
