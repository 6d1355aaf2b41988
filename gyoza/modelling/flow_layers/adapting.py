"""The data-dependent start of a chain of flow layers."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from keras import ops

from gyoza.modelling.adaptation import check_finite_rows, describe_not_finite, is_left_alone
from gyoza.modelling.batches import iterate_batches, split_context
from gyoza.modelling.flow_layers.columns import Columns
from gyoza.modelling.flow_layers.conditional import check_context_rank
from gyoza.modelling.flow_layers.discrete import (
    makes_continuous,
    warn_if_degenerate,
    warn_if_discrete,
    warn_if_stretched,
)
from gyoza.modelling.flow_layers.likelihood import not_one_array
from gyoza.modelling.flow_layers.normalisation import ActivationNormalization
from gyoza.modelling.flow_layers.unadapted import warn_if_unscaled
from gyoza.modelling.functions.warning import warn
from gyoza.modelling.pairs import to_pairs
from gyoza.modelling.tables import get_names
from gyoza.typing import Data, Tensor

__all__ = ["AdaptsLayers"]

_INFINITE = -1  # the cardinality of a `tf.data.Dataset` without an end
_MANY_BATCHES = 10000


class AdaptsLayers:
    """The part of a flow model that lets its layers adapt to data, one after the other."""

    name: str
    _flow_layers_: list[Any]
    encode: Callable[..., Tensor]
    build_for: Callable[..., None]
    _check_inputs: Callable[..., None]
    _column_names: tuple[str, ...] | None
    _to_arrays: Callable[..., Data]

    @property
    def adapts_to_pairs(self) -> bool:
        """Whether there is a layer whose `adapt` takes pairs that share factors."""
        return any(layer.adapts_to_pairs and layer.trainable for layer in self._flow_layers_)

    def adapt(self, data: Data, batch_size: int = 4096) -> None:
        """Adapts all layers that have an `adapt` method to data: their data-dependent start.

        Each layer is adapted to what the layers before it, already adapted, make of `data`. All
        outputs of one layer are held in memory at a time: some thousand instances suffice. Frozen
        layers are left as they are, with a warning. A warning also names columns of vectors that
        are constant or repeat another one, since they make the likelihood infinite.

        Call it before `fit`: layers that have been trained do not suit new normalisations.

        Contexts are not scaled: without a `context_encoder`, layers see them as they are, and a
        warning tells where they are far from standardised. Standardise them, or make the model with
        an encoder that does: `encoder = keras.layers.Normalization()`, `encoder.adapt(context)` and
        `context_encoder=encoder`.

        Args:
            data: The inputs: an array, a data frame, a pair of arrays, a dictionary with a context,
                or an iterable of batches, as `fit` takes them. Only inputs are used, not targets.
                Where a layer adapts to pairs, as :class:`PairAxes` does, what that takes; other
                layers are then adapted to all instances of the pairs. A generator is read to its
                end, and `fit` needs another one: `itertools.islice(make(), 10)` are 10 batches of
                a new one. After 10000 batches, a warning tells that it may have no end.
            batch_size: Number of instances that are processed at a time.

        Raises:
            TypeError: If inputs, or contexts without a `context_encoder`, are not floating-point
                numbers.
            ValueError: If `data` holds no instances, or no pairs where a layer adapts to pairs, if
                it is a `tf.data.Dataset` without an end, if contexts have no axis besides that of
                instances, or if data are not finite, or what a layer makes of them for later ones.
                The first rows are named, and the columns.
        """
        pairs = to_pairs(data) if self.adapts_to_pairs else None
        x, context = self._read_instances(data if pairs is None else pairs.x, batch_size)
        self.build_for(x, context)
        # Columns tell which of them they make continuous.
        is_mapped = isinstance(self._flow_layers_[0], Columns)
        if not is_mapped:
            self._warn_of(x)
        given: Any = context
        if context is not None:
            context_names = get_names(data.get("context")) if isinstance(data, dict) else None
            warn_if_unscaled(self, context, context_names)
            context = ops.convert_to_numpy(self.encode(ops.convert_to_tensor(context)))
        adapted = [
            hasattr(layer, "adapt") and not is_left_alone(layer) for layer in self._flow_layers_
        ]
        if any(adapted):
            check_finite_rows(self.name, x, names=self._column_names)
            if context is not None and not np.all(np.isfinite(context)):
                what = "The contexts in `data`"
                check_finite_rows(self.name, given, names=context_names, what=what)
                check_finite_rows(self.name, context, what=f"{what}, encoded,")
        for i, layer in enumerate(self._flow_layers_):
            if not any(adapted[i:]):
                return
            inputs: Any = {"inputs": x}
            if context is not None and layer.accepts_context:
                inputs["context"] = context
            is_first = adapted[i] and not any(adapted[:i])
            if is_first and isinstance(layer, ActivationNormalization):
                warn_if_stretched(self, x, None if i else self._column_names)
            if adapted[i] and layer.adapts_to_pairs and pairs is not None:
                layer.adapt(pairs.of_instances(x), batch_size)
            elif adapted[i]:
                layer.adapt(inputs if len(inputs) > 1 else x, batch_size)
            outputs = [layer(**batch)[0] for batch in iterate_batches(inputs, batch_size)]
            x = np.concatenate([ops.convert_to_numpy(batch) for batch in outputs])
            if any(adapted[i + 1 :]) and (found := describe_not_finite(x)):
                raise ValueError(
                    f"`data` should be such that the outputs of layer {i} of '{self.name}', "
                    f"'{layer.name}', are finite: some layers are for positive or bounded numbers "
                    f"alone. Received: {found} of the outputs"
                )
            if is_mapped and i == 0:
                self._warn_of(x, is_mapped)

    def _warn_of(self, x: np.ndarray, is_mapped: bool = False) -> None:
        """Warns of data that no density can be fitted to."""
        warn_if_discrete(self, x, is_mapped)
        if is_mapped or not makes_continuous(self):
            warn_if_degenerate(self, x)

    def _read_instances(self, data: Data, batch_size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns all instances of data, and their contexts if they have some."""
        data = self._to_arrays(data)
        if isinstance(data, tuple) and len({np.shape(part)[1:] for part in data}) > 1:
            raise not_one_array(self.name, data)
        if hasattr(data, "cardinality") and int(data.cardinality()) == _INFINITE:
            raise ValueError(
                "`data` should come to an end: `data.take(10)` are 10 batches. "
                f"Received: the infinite data set {data}"
            )
        if hasattr(data, "element_spec"):
            self._check_inputs(data)
        batches = []
        for batch in iterate_batches(data, batch_size):
            batches.append(split_context(batch))
            if len(batches) == _MANY_BATCHES and isinstance(data, Iterator):
                warn(
                    f"`adapt` has read {_MANY_BATCHES} batches of a {type(data).__name__}, and "
                    "goes on until it ends. Some thousand instances suffice: "
                    "`itertools.islice(data, 10)` are 10 batches."
                )
        if not batches:
            raise ValueError("`data` should hold at least one instance. Received: no instance")
        x = np.concatenate([batch for batch, _ in batches])
        self._check_inputs(x)
        contexts = [context for _, context in batches]
        if contexts[0] is None:
            return x, None
        context = np.concatenate(contexts)
        check_context_rank(context)
        return x, context
