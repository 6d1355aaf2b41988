"""Latent vectors that have a block for each attribute of an instance."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.distributions import (
    Distribution,
    Factorial,
    GaussianMixture,
    LabelledNormal,
    StandardNormal,
)
from gyoza.modelling.distributions.tools import (
    check_classes,
    check_values,
    class_penalty,
    to_classes,
)
from gyoza.modelling.functions.checks import check_integer, check_positive_number
from gyoza.typing import DType, Tensor

__all__ = ["AttributeCode"]

_READINGS = ("sampled", "softmax", "argmax", "argmax_norm", "l2")


@keras.saving.register_keras_serializable(package="gyoza")
class AttributeCode:
    r"""The layout of latent vectors in which attributes can be read and written.

    A latent vector is the concatenation of a residual block, which is free, and one block per
    attribute. A categorical attribute with :math:`K` classes has a block :math:`z` of :math:`K`
    dimensions, a softmax code with the sharpness :math:`s`,

    .. math::
        p(c \mid z) = \operatorname{softmax}(s z)_c,

    and is written as :math:`s` times the one-hot vector of the class. A real-valued attribute has
    one dimension, which holds its value.

    A flow learns such a code by likelihood, with the base distribution from
    :meth:`make_distribution`, and any other network with the loss
    :class:`~gyoza.modelling.losses.AttributeLoss`. Labels are arrays `[batch, attribute count]`
    with one column per attribute, which holds classes, counted from 0, or values. Some may be
    unknown: -1 or NaN for a class, NaN for a value.

    Args:
        attributes: The number of classes of each attribute, or `None` if it is real-valued, by name
            and in the order of the blocks.
        dimension_count: The number of latent dimensions. If omitted, there is no residual block.
        separation: The sharpness :math:`s`, positive: with :meth:`make_distribution`, the means of
            two classes lie :math:`\sqrt 2 s` standard deviations apart.

    Raises:
        ValueError: If there are no attributes, one has fewer than 2 classes, `dimension_count` is
            too small for them, or `separation` is not positive.

    Attributes:
        attributes: The number of classes, or `None`, by name.
        dimensions_per_factor: The sizes of the blocks, that of the residual block first.

    Example:

        >>> code = gyoza.modelling.attributes.AttributeCode(
        ...     {"shape": 3, "x": None}, dimension_count=6
        ... )
        >>> code.dimensions_per_factor
        [2, 3, 1]
        >>> z = code.encode([[2, 0.25]])
        >>> keras.ops.convert_to_numpy(z)
        array([[0.  , 0.  , 0.  , 0.  , 5.  , 0.25]], dtype=float32)
        >>> keras.ops.convert_to_numpy(code.read(code.write(z, {"shape": 1}), "argmax"))
        array([[1.  , 0.25]], dtype=float32)

        >>> from gyoza.modelling import flow_layers
        >>> flow = flow_layers.FlowModel(
        ...     [flow_layers.Reflection(reflection_count=2)], code.make_distribution()
        ... )
        >>> x = np.random.default_rng(0).normal(size=[64, 6]).astype("float32")
        >>> labels = np.tile([[0, 0.5], [1, np.nan], [-1, 0.7], [-1, np.nan]], [16, 1])
        >>> flow.compile("adam")
        >>> history = flow.fit(x, labels, verbose=0)
        >>> flow.invert(code.encode([[2, 0.25]])).shape == (1, 6)
        True
    """

    def __init__(
        self,
        attributes: Mapping[str, int | None],
        dimension_count: int | None = None,
        separation: float = 5.0,
    ) -> None:
        self.attributes = {
            name: None
            if class_count is None
            else check_integer(f"attributes[{name!r}]", class_count, minimum=2)
            for name, class_count in attributes.items()
        }
        if not self.attributes:
            raise ValueError("`attributes` should not be empty. Received: attributes={}")
        sizes = [class_count or 1 for class_count in self.attributes.values()]
        if dimension_count is None:
            dimension_count = sum(sizes)
        dimension_count = check_integer("dimension_count", dimension_count, minimum=sum(sizes))
        self.dimensions_per_factor = [dimension_count - sum(sizes), *sizes]
        self.separation = check_positive_number("separation", separation)

    @property
    def dimension_count(self) -> int:
        """The number of latent dimensions."""
        return sum(self.dimensions_per_factor)

    def make_distribution(
        self,
        noise: float | Mapping[str, float] = 0.3,
        location: float | Mapping[str, float] = 0.0,
        scale: float | Mapping[str, float] = 1.0,
        dtype: DType = None,
    ) -> Factorial:
        r"""Creates the base distribution of a flow that learns the code, without trainable weights.

        The residual block is standard normal. The block of a categorical attribute is normal around
        the mean of its class, :math:`s` times a one-hot vector, with variance 1. A class then has
        exactly the probability :math:`\operatorname{softmax}(s z)_c`, and the negative
        log-likelihood is a cross-entropy up to terms that do not depend on the label,

        .. math::
            -\ln p(z \mid c) = -\ln \operatorname{softmax}(s z)_c - \ln p(z) - \ln K.

        The block of a real-valued attribute is a
        :class:`~gyoza.modelling.distributions.LabelledNormal` around its label, so that the
        negative log-likelihood contains the squared distance. Unknown labels are integrated out.

        Args:
            noise: The standard deviation around the labels of real-valued attributes: one number
                for all of them, or one for each by its name. If it is small, values outweigh
                classes, and training may get stuck with classes swapped.
            location: The mean of these labels over the data, likewise.
            scale: Their standard deviation over the data, likewise.
            dtype: See `keras.Layer`.

        Returns:
            A distribution of latent vectors that takes labels, `[batch, attribute count]`.

        Raises:
            ValueError: If `noise` or `scale` is not positive, or a number is not finite or missing.
        """
        residual, *_ = self.dimensions_per_factor
        factors: list[Distribution] = []
        if residual:
            factors.append(StandardNormal([residual], dtype=dtype))
        for name, class_count in self.attributes.items():
            if class_count is None:
                own = {
                    "noise": _get_own("noise", noise, name),
                    "location": _get_own("location", location, name),
                    "scale": _get_own("scale", scale, name),
                }
                factors.append(LabelledNormal([1], **own, dtype=dtype))
            else:
                means = self.separation * np.eye(class_count)[:, None]
                factors.append(
                    GaussianMixture(
                        1, [class_count], class_count, means, trainable=False, dtype=dtype
                    )
                )
        return Factorial(factors, dtype=dtype)

    def read(self, z: Tensor, reading: str = "softmax", name: str | None = None) -> Tensor:
        r"""Reads attributes from latent vectors.

        A real-valued attribute is read as its value. A categorical one has several readings:

        - `"sampled"`: its block, unchanged. It is named after variational autoencoders, whose
          latent vectors are sampled; those of a flow are determined by the input.
        - `"softmax"`: the probabilities of its classes.
        - `"argmax"`: the most probable class, in one column, like labels.
        - `"argmax_norm"`: the same, divided by the highest class, so that it is from 0 to 1.

        The last two have no gradients. The reading `"l2"` is only for codes whose attributes are
        all real-valued.

        Args:
            z: Latent vectors, `[batch, dimension_count]`.
            reading: One of these names.
            name: The attribute to read. If omitted, all of them, side by side.

        Returns:
            The reading, `[batch, column count]`.

        Raises:
            ValueError: If the reading or attribute is unknown, a categorical attribute is to be
                read as `"l2"`, or `z` does not have the right shape.
        """
        if reading not in _READINGS:
            raise ValueError(
                f"`reading` should be one of {', '.join(_READINGS)}. Received: reading={reading!r}"
            )
        blocks = self._split(z)
        names = list(self.attributes) if name is None else [name]
        self._check_names(names)
        return ops.concatenate([self._read(n, blocks[n], reading) for n in names], axis=1)

    def _read(self, name: str, block: Tensor, reading: str) -> Tensor:
        class_count = self.attributes[name]
        if class_count is None or reading == "sampled":
            return block
        if reading == "l2":
            raise ValueError(
                f"`reading='l2'` should be used for real-valued attributes, but '{name}' has "
                "classes; with None for their number, it would be real-valued. "
                f"Received: attributes={self.attributes}"
            )
        if reading == "softmax":
            return ops.softmax(self.separation * block, axis=-1)
        classes = ops.cast(ops.argmax(block, axis=-1, keepdims=True), block.dtype)
        return classes if reading == "argmax" else classes / (class_count - 1)

    def write(self, z: Tensor, attributes: Mapping[str, Tensor]) -> Tensor:
        """Sets attributes in latent vectors, and leaves the rest as it is.

        Args:
            z: Latent vectors, `[batch, dimension_count]`.
            attributes: By name, a label for each latent vector, `[batch]`, or one for all. Unknown
                labels, -1 or NaN for a class and NaN for a value, change nothing.

        Returns:
            The new latent vectors, `[batch, dimension_count]`. In compiled code, which cannot raise
            errors, NaN for classes out of range.

        Raises:
            ValueError: If an attribute is unknown, or `labels` or `z` are not as described.
        """
        self._check_names(attributes)
        blocks = self._split(z)
        for name, labels in attributes.items():
            blocks[name] = self._write(name, blocks[name], labels)
        return ops.concatenate(list(blocks.values()), axis=1)

    def _write(self, name: str, block: Tensor, labels: Tensor) -> Tensor:
        class_count, dtype = self.attributes[name], block.dtype
        if not ops.is_tensor(labels):
            labels = np.asarray(labels, "float64")
            self._check_attribute(name, labels)
            labels = ops.convert_to_tensor(labels, dtype=dtype)
        shape = tuple(labels.shape)
        if len(shape) > 1 or not (
            shape in ((), (1,), (None,)) or block.shape[0] in (None, shape[0])
        ):
            raise ValueError(
                f"`{name}` should be one label, or one for each latent vector. "
                f"Received: {name}.shape={shape}, z.shape={(block.shape[0], self.dimension_count)}"
            )
        labels = ops.reshape(ops.cast(labels, dtype), (-1, 1))
        if class_count is None:
            return ops.where(ops.isnan(labels), block, labels)
        classes = to_classes(labels)
        is_class = ops.equal(classes, ops.arange(class_count, dtype="int32"))
        written = ops.where(is_class, self.separation, ops.zeros_like(block))
        written = written + class_penalty(classes, class_count, dtype)
        return ops.where(classes == -1, block, written)

    def encode(self, labels: Tensor) -> Tensor:
        """Returns latent vectors with given attributes and the most probable residual, zero.

        Args:
            labels: The labels, `[batch, attribute count]`, or those of one instance, `[attribute
                count]`. The block of an unknown class is zero, so that all classes are equally
                likely. An unknown value is zero.

        Returns:
            The latent vectors, `[batch, dimension_count]`. See :meth:`write`.

        Raises:
            ValueError: If labels do not have the right shape, or values of an array are out of
                range.
        """
        if not ops.is_tensor(labels):
            labels = np.asarray(labels, "float64")
            self.check_labels(np.atleast_2d(labels))
            labels = ops.convert_to_tensor(labels, dtype=keras.config.floatx())
        labels = ops.reshape(labels, (-1, len(self.attributes)))
        dtype = labels.dtype if keras.backend.is_float_dtype(labels.dtype) else None
        z = ops.zeros((ops.shape(labels)[0], self.dimension_count), dtype=dtype)
        return self.write(z, {name: labels[:, i] for i, name in enumerate(self.attributes)})

    def check_labels(self, labels: Tensor) -> None:
        """Checks labels before they enter compiled code.

        Args:
            labels: The labels, `[batch, attribute count]`, as an array.

        Raises:
            ValueError: If they do not have this shape, or are out of range.
        """
        values = np.asarray(labels, "float64")
        if values.ndim != 2 or values.shape[1] != len(self.attributes):
            raise ValueError(
                f"Labels should have shape [batch, {len(self.attributes)}], with one column for "
                f"each of {list(self.attributes)}. Received: labels of shape {values.shape}"
            )
        for name, column in zip(self.attributes, values.T, strict=True):
            self._check_attribute(name, column)

    def _check_attribute(self, name: str, labels: np.ndarray) -> None:
        class_count = self.attributes[name]
        if class_count is None:
            check_values(name, labels)
        else:
            check_classes(name, labels, class_count)

    def _check_names(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.attributes:
                raise ValueError(
                    f"The attribute should be one of {list(self.attributes)}. Received: {name!r}"
                )

    def _split(self, z: Tensor) -> dict[str | None, Tensor]:
        """Splits latent vectors into blocks by name, where `None` is the residual block."""
        if not ops.is_tensor(z):
            z = ops.convert_to_tensor(np.asarray(z), dtype=keras.config.floatx())
        if len(z.shape) != 2 or z.shape[1] != self.dimension_count:
            raise ValueError(
                f"`z` should have shape [batch, {self.dimension_count}]. "
                f"Received: z.shape={tuple(z.shape)}"
            )
        names, ends = (None, *self.attributes), np.cumsum(self.dimensions_per_factor)
        return {
            name: z[:, end - size : end]
            for name, size, end in zip(names, self.dimensions_per_factor, ends, strict=True)
        }

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal code."""
        return {
            "attributes": dict(self.attributes),
            "dimension_count": self.dimension_count,
            "separation": self.separation,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AttributeCode":
        """Creates a code from what `get_config` returned.

        Args:
            config: The configuration.

        Returns:
            An equal code.
        """
        return cls(**config)


def _get_own(key: str, value: float | Mapping[str, float], name: str) -> float:
    """Returns the number for one attribute."""
    if not isinstance(value, Mapping):
        return value
    if name not in value:
        raise ValueError(
            f"`{key}` should have a number for attribute '{name}'. Received: {key}={value}"
        )
    return value[name]
