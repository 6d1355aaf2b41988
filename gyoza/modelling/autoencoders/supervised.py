"""The variational autoencoder whose latent vectors encode labelled attributes."""

import importlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from gyoza.modelling.attributes import AttributeCode
from gyoza.modelling.autoencoders.attribute_decoder import AttributeDecoder
from gyoza.modelling.autoencoders.convolutions import make_decoder, make_encoder
from gyoza.modelling.autoencoders.variational import VariationalAutoencoder
from gyoza.modelling.distributions import Factorial
from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.losses import AttributeLoss
from gyoza.typing import Data, Shape, Tensor

__all__ = ["SupervisedVAE"]

_MODEL_TYPES = ("sampled", "softmax", "argmax", "argmax_norm", "l2")
_CHUNK_SIZE = 256
"""Number of instances encoded or decoded at a time."""


@keras.saving.register_keras_serializable(package="gyoza")
class SupervisedVAE(VariationalAutoencoder):
    r"""A variational autoencoder (VAE) whose latent vectors encode attributes, learnt from labels.

    The encoder computes means :math:`m` and logarithms of variances of latent vectors, which have a
    block for each attribute, as an :class:`~gyoza.modelling.attributes.AttributeCode` describes.
    The decoder sees what is read from a sample :math:`z`. There are five types of models:

    ============= ======================= =========================== =======================
    `model_type`  block of an attribute   what the decoder sees       loss of labels
    ============= ======================= =========================== =======================
    `sampled`     one dimension per class the block as it is          cross-entropy
    `softmax`     one dimension per class probabilities of classes    cross-entropy
    `argmax`      one dimension per class the most probable class     cross-entropy
    `argmax_norm` one dimension per class the same, between 0 and 1   cross-entropy
    `l2`          one dimension           its value                   squared distance
    ============= ======================= =========================== =======================

    `compile(optimizer)` and `fit(x, labels)` minimise the mean over the batch of

    .. math::
        -E_{q(z | x)} \left[ \ln p(x | z) \right]
        + \text{kl\_weight} \cdot \operatorname{KL} \left( q(z | x) \parallel p(z) \right)
        + \text{attribute\_weight} \cdot \ell(m, \text{labels}),

    in which :math:`\ell` is the :class:`~gyoza.modelling.losses.AttributeLoss` of the means, shown
    as `attribute_loss`. Gradients do not pass through an `argmax`: in these two types, the decoder
    learns only from pictures, and the encoder only from labels and the divergence, as if they were
    two separate networks.

    For all types, labels are arrays `[batch, attribute count]` of classes, counted from 0. Unknown
    labels are -1 or NaN, and add nothing to the loss; if no labels are passed, all are unknown. The
    type `l2` treats classes as numbers.

    Args:
        feature_size: Height and width of the pictures, for the default networks. `None` for other
            data, which need networks of your own.
        model_type: One of the types above.
        attr_list: The names of the attributes, in the order of the labels' columns.
        attr_sizes: The number of classes of each attribute, or `None` if it is real-valued,
            whatever the type. Labels of real-valued attributes should be standardised.
        encoder: See :class:`VariationalAutoencoder`. Its outputs have `code.dimension_count`
            dimensions. If omitted, convolutions of stride 2 and a dense layer.
        decoder: See :class:`VariationalAutoencoder`. Its inputs are what :meth:`X_to_z` returns.
            If omitted, the reverse of the default encoder.
        channel_count: The number of channels of the pictures.
        residual_size: The number of additional latent dimensions, which are free to describe what
            attributes do not.
        separation: See :class:`~gyoza.modelling.attributes.AttributeCode`.
        attribute_weight: The weight of the loss of labels, not negative. If few labels are known, a
            larger weight makes up for those that add nothing.
        prior: See :class:`VariationalAutoencoder`. If omitted, the distribution of the code: for a
            class, normal around the vector that
            :meth:`~gyoza.modelling.attributes.AttributeCode.encode` returns.
        **kwargs: Arguments of :class:`VariationalAutoencoder`, all but `posterior_flow`.

    Raises:
        ValueError: If the type is unknown, names and sizes do not match, networks are missing, or a
            weight is negative. See also :class:`VariationalAutoencoder`.

    Attributes:
        code: The layout of latent vectors. For every type, `decode(code.encode(labels))` returns
            data with the given attributes.
        attribute_weight: The weight of the loss of labels.

    Example:

        >>> images, factors = gyoza.data.Sprites(image_size=16).sample(64, seed=0)
        >>> labels = np.stack([factors[:, 0], factors[:, 3] > 0.5], axis=1)
        >>> labels[32:] = -1  # nobody has looked at these
        >>> model = gyoza.modelling.autoencoders.SupervisedVAE(
        ...     16, model_type="softmax", attr_list=["shape", "is_right"], attr_sizes=[3, 2]
        ... )
        >>> model.compile("adam")
        >>> history = model.fit(images, labels, epochs=2, verbose=0)
        >>> sorted(history.history)
        ['attribute_loss', 'kl', 'loss']
        >>> model.X_to_z(images[0]).shape, model.z_to_X([2, 1]).shape
        ((5,), (16, 16, 1))
        >>> model.interpolate(images[0], images[1], steps=5).shape
        (5, 16, 16, 1)
        >>> model.traverse(images[:10], "shape").shape
        (3, 10, 16, 16, 1)
    """

    def __init__(
        self,
        feature_size: int | None = None,
        model_type: str = "softmax",
        attr_list: Iterable[str] = (),
        attr_sizes: Iterable[int | None] = (),
        encoder: keras.Layer | None = None,
        decoder: keras.Layer | None = None,
        channel_count: int = 1,
        residual_size: int = 0,
        separation: float = 3.0,
        attribute_weight: float = 10.0,
        prior: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        if model_type not in _MODEL_TYPES:
            raise ValueError(
                f"`model_type` should be one of {', '.join(_MODEL_TYPES)}. "
                f"Received: model_type={model_type!r}"
            )
        names, sizes = list(attr_list), list(attr_sizes)
        if len(names) != len(sizes) or len(set(names)) != len(names):
            raise ValueError(
                "`attr_list` should hold distinct names, and `attr_sizes` one number for each of "
                f"them. Received: attr_list={names}, attr_sizes={sizes}"
            )
        if not attribute_weight >= 0.0:
            raise ValueError(
                "`attribute_weight` should not be negative. "
                f"Received: attribute_weight={attribute_weight}"
            )
        if kwargs.get("posterior_flow") is not None:
            raise ValueError(
                "`posterior_flow` should be omitted, since it would mix the blocks of attributes. "
                f"Received: posterior_flow={kwargs['posterior_flow']}"
            )
        labelled = AttributeCode(dict(zip(names, sizes, strict=True)))
        attributes = dict.fromkeys(names) if model_type == "l2" else labelled.attributes
        residual_size = check_integer("residual_size", residual_size)
        size = residual_size + AttributeCode(attributes).dimension_count
        code = AttributeCode(attributes, size, separation)
        if feature_size is not None:
            feature_size = check_integer("feature_size", feature_size, minimum=1)
            image_shape = (
                feature_size,
                feature_size,
                check_integer("channel_count", channel_count, 1),
            )
        elif encoder is None or decoder is None:
            raise ValueError(
                "`feature_size` should be given unless both `encoder` and `decoder` are. "
                f"Received: encoder={encoder}, decoder={decoder}"
            )
        dtype = kwargs.get("dtype")
        if isinstance(decoder, AttributeDecoder):  # from a configuration
            decoder = decoder.decoder
        super().__init__(
            encoder or make_encoder(image_shape, size, dtype),
            AttributeDecoder(
                code, model_type, decoder or make_decoder(image_shape, dtype), dtype=dtype
            ),
            _make_prior(code, labelled) if prior is None else prior,
            **kwargs,
        )
        self.feature_size = feature_size
        self.model_type = model_type
        self.attr_list = names
        self.attr_sizes = sizes
        self.channel_count = channel_count
        self.residual_size = residual_size
        self.attribute_weight = float(attribute_weight)
        self.code = code
        self._labelled = labelled
        self._criterion = AttributeLoss(code, reduction=None)
        self._attribute_loss = keras.metrics.Mean(name="attribute_loss")
        self._data_rank: int | None = None
        if feature_size is not None:
            self.build((None, *image_shape))

    def build(self, input_shape: Shape) -> None:
        """Builds all parts.

        Args:
            input_shape: Shape of the data, `[batch, ...]`, where the batch size may be `None`.
        """
        super().build(input_shape)
        self._data_rank = len(input_shape) - 1

    def fit(
        self, x: Data = None, y: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains the model; see `keras.Model.fit`.

        A model that has not been compiled is trained with Adam.

        Args:
            x: The data, `[instances, ...]`.
            y: The labels, `[instances, attribute count]`, or `None` if all of them are unknown.
            *args: Further arguments of `keras.Model.fit`, or validation data and their labels, as
                in `fit(x, y, x_validation, y_validation, epochs=20)`.
            **kwargs: Further arguments of `keras.Model.fit`.

        Returns:
            The history.

        Raises:
            ValueError: If an array of labels does not have the right shape, or is out of range.
        """
        if not self.compiled:
            self.compile("adam")
        if args and np.ndim(args[0]) > 0:
            kwargs = {"validation_data": args, **kwargs}
            args = ()
        return super().fit(x, y, *args, **kwargs)

    def _prepare_data(
        self,
        x: Tensor,
        y: Tensor | None = None,
        sample_weight: Tensor | None = None,
        class_weight: dict[int, float] | None = None,
    ) -> tuple[Data, Tensor | None, Tensor | None]:
        if y is None and sample_weight is not None:
            y = np.full([len(sample_weight), len(self.attr_list)], np.nan, "float32")
        return super()._prepare_data(x, y, sample_weight, class_weight)

    def _check_targets(
        self, y: Tensor | None, class_weight: dict[int, float] | None = None
    ) -> None:
        if isinstance(y, np.ndarray):
            self._labelled.check_labels(y)

    def _compute_losses(self, x: Tensor, y: Tensor | None, y_pred: Tensor) -> Tensor:
        losses = super()._compute_losses(x, y, y_pred)
        if y is None:
            return losses
        return losses + self.attribute_weight * self._compute_attribute_losses(y, y_pred)

    def _compute_attribute_losses(self, y: Tensor, y_pred: Tensor) -> Tensor:
        labels = ops.cast(y, y_pred["mean"].dtype)
        if self.model_type == "l2":  # -1 is an unknown class, but could be a value
            has_classes = np.array([size is not None for size in self.attr_sizes])
            is_unknown = ops.logical_and(has_classes, labels == -1)
            labels = ops.where(is_unknown, ops.full_like(labels, np.nan), labels)
        return self._criterion.call(labels, y_pred["mean"])

    def compute_metrics(
        self, x: Tensor, y: Tensor | None, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Updates the metrics; see `keras.Model.compute_metrics`."""
        if y is not None:
            losses = self._compute_attribute_losses(y, y_pred)
            self._attribute_loss.update_state(losses, sample_weight)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def X_to_z(self, X: Tensor) -> np.ndarray:
        """Encodes data as the decoder sees them.

        Args:
            X: The data, `[batch, ...]`, or a single instance.

        Returns:
            The residual block and then the readings of all attributes, in their order, from the
            means that the encoder computes, `[batch, size]`, or `[size]` for a single instance.
            The reading of an attribute has as many columns as classes for the types `sampled` and
            `softmax`, and otherwise one.
        """
        return _map(lambda x: self.decoder.read(self.encode(x)), X, self._data_rank)

    def z_to_X(self, z: Tensor) -> np.ndarray:
        """Decodes what the decoder sees.

        Args:
            z: What :meth:`X_to_z` returns, `[batch, size]`, or `[size]` for a single instance.
                Alternatively one number for each attribute, with a residual of zero: the class for
                the types `sampled`, `softmax` and `argmax`, and for `argmax_norm` the class divided
                by the highest one. For the types `argmax`, `argmax_norm` and `l2`, it may lie
                between classes.

        Returns:
            The expected data, `[batch, ...]`, or those of a single instance.

        Raises:
            ValueError: If `z` does not have the right shape, or classes are out of range.
        """
        return _map(self._decode_readings, z, 1)

    def _decode_readings(self, z: np.ndarray) -> Tensor:
        attribute_count = len(self.attr_list)
        in_blocks = self.model_type in ("sampled", "softmax")
        size = self.code.dimension_count if in_blocks else self.residual_size + attribute_count
        if z.shape[-1] not in (attribute_count, size) or z.ndim != 2:
            raise ValueError(
                f"`z` should have shape [batch, {size}], or [batch, {attribute_count}] with one "
                f"number for each of {self.attr_list}. Received: z.shape={z.shape}"
            )
        if z.shape[1] == size:
            readings = self._to_tensor(z)
        elif in_blocks:
            readings = self.decoder.read(self.code.encode(z))
        else:
            readings = self._to_tensor(np.pad(z, [(0, 0), (self.residual_size, 0)]))
        return self._to_mean(self.decoder.decoder(readings, training=False))

    def reconstruct(self, X: Tensor, plot: bool = False) -> np.ndarray:
        """Encodes data and decodes them again, without noise.

        Args:
            X: The data, `[batch, ...]`, or a single instance.
            plot: Whether to draw pictures, and their reconstructions below, in a new matplotlib
                figure. Showing or saving it is left to you.

        Returns:
            The expected data, in the shape of `X`.
        """
        reconstructions = _map(lambda x: self.decode(self.encode(x)), X, self._data_rank)
        if plot:
            plotting = importlib.import_module("gyoza.plotting")
            shape = (2, -1, *reconstructions.shape[-3:])
            rows = np.stack([ops.convert_to_numpy(X), reconstructions]).reshape(shape)
            plotting.traversal_strips(rows, row_names=["data", "reconstructions"])
        return reconstructions

    def interpolate(self, a: Tensor, b: Tensor, steps: Tensor = 7) -> np.ndarray:
        """Moves from instances to others, along a straight line between what the decoder sees.

        Args:
            a: The data, `[batch, ...]`, or a single instance.
            b: As many others.
            steps: The positions along the line, from 0 at `a` to 1 at `b`, or their number.

        Returns:
            The expected data at each position, `[steps, batch, ...]`, or `[steps, ...]`.
        """
        z_a, z_b = self.X_to_z(a), self.X_to_z(b)
        places = np.linspace(0.0, 1.0, int(steps)) if np.ndim(steps) == 0 else np.asarray(steps)
        return np.stack([self.z_to_X(z_a + place * (z_b - z_a)) for place in places])

    def traverse(self, X: Tensor, name: str, labels: Tensor | None = None) -> np.ndarray:
        """Sets an attribute to one label after another, and leaves other attributes as they are.

        Args:
            X: The data, `[batch, ...]`, or a single instance.
            name: The attribute.
            labels: The labels. If omitted, all classes of the attribute.

        Returns:
            The expected data for each label, `[label count, batch, ...]`, or `[label count, ...]`.

        Raises:
            ValueError: If the attribute is unknown, labels are out of range, or the attribute is
                real-valued and no labels are given.
        """
        if labels is None:
            size = self._labelled.attributes.get(name)
            if size is None and name in self.attr_list:
                raise ValueError(
                    f"`labels` should be given for the real-valued attribute '{name}'. "
                    "Received: labels=None"
                )
            labels = range(size or 1)

        def write(label: float) -> np.ndarray:
            return _map(
                lambda x: self.decode(self.code.write(self.encode(x), {name: label})),
                X,
                self._data_rank,
            )

        return np.stack([write(label) for label in labels])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal model."""
        return {
            **super().get_config(),
            "feature_size": self.feature_size,
            "model_type": self.model_type,
            "attr_list": self.attr_list,
            "attr_sizes": self.attr_sizes,
            "channel_count": self.channel_count,
            "residual_size": self.residual_size,
            "separation": self.code.separation,
            "attribute_weight": self.attribute_weight,
        }


def _make_prior(code: AttributeCode, labelled: AttributeCode) -> Factorial:
    """Creates the distribution of the code. Classes that it treats as numbers are uniform."""
    counts = labelled.attributes
    return code.make_distribution(
        location={name: (count - 1) / 2 if count else 0.0 for name, count in counts.items()},
        scale={
            name: ((count**2 - 1) / 12) ** 0.5 if count else 1.0 for name, count in counts.items()
        },
    )


def _map(function: Callable[[Tensor], Tensor], inputs: Tensor, rank: int | None) -> np.ndarray:
    """Applies a function to a few instances at a time. A single instance has `rank` axes."""
    inputs = ops.convert_to_numpy(inputs)
    if inputs.ndim == rank:
        return _map(function, inputs[None], rank)[0]
    starts = range(0, max(len(inputs), 1), _CHUNK_SIZE)
    chunks = [function(inputs[start : start + _CHUNK_SIZE]) for start in starts]
    return np.concatenate([ops.convert_to_numpy(chunk) for chunk in chunks])
