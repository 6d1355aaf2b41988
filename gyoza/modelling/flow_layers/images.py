"""Volume-preserving layers that change the shape of their inputs, mostly of images.

Images have the axes `[batch, height, width, channels]`.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import ops

from gyoza.modelling.axes import check_shape_and_axes, read_shape
from gyoza.modelling.flow_layers.base import FlowLayer
from gyoza.typing import Shape, Tensor

__all__ = ["Flatten", "Reshape", "Squeeze", "Unsqueeze", "HaarDownsampling"]


class _ShapeChange(FlowLayer):
    """Base class of layers that change the shape of whole instances and preserve volume.

    Subclasses implement `change` and `restore`, for tensors, and `_change_shape` and
    `_restore_shape`, for shapes without the batch axis.
    """

    preserves_volume = True
    moves_any_dtype = True

    def __init__(self, shape: Iterable[int] | None = None, **kwargs: Any) -> None:
        super().__init__(shape=shape, **kwargs)
        if self._shape_ is not None:
            self._change_shape(self._shape_)

    def change(self, inputs: Tensor) -> Tensor:
        """Changes the shape of a batch."""
        raise NotImplementedError

    def restore(self, outputs: Tensor) -> Tensor:
        """Restores the shape of a batch."""
        raise NotImplementedError

    def _change_shape(self, shape: Sequence[int]) -> list[int]:
        """Returns the shape of outputs. Raises a `ValueError` if inputs cannot have `shape`."""
        raise NotImplementedError

    def _restore_shape(self, shape: Sequence[Any]) -> list[int] | None:
        """Returns the shape of inputs, or `None` if that of outputs does not determine it."""
        return None

    def _set_input_spec(self) -> None:
        if self._shape_ is not None:
            self.input_spec = keras.InputSpec(shape=(None, *self._shape_))

    @property
    def output_spec(self) -> keras.InputSpec | None:
        """What `invert` requires of its argument."""
        if self._shape_ is None:
            return None
        return keras.InputSpec(shape=(None, *self._change_shape(self._shape_)))

    def build(self, input_shape: Shape | None = None) -> None:
        """Reads the shape of inputs; see :meth:`FlowLayer.build`."""
        is_known = self._shape_ is not None
        if is_known and input_shape is not None and len(input_shape) != len(self._shape_) + 1:
            raise ValueError(
                f"The inputs of '{self.name}' should have shape {self._shape_} after the batch "
                f"axis. Received: input_shape={tuple(input_shape)}"
            )
        super().build(input_shape)
        self._change_shape(self._shape_)

    def _prepare_inversion(self, outputs: Tensor, *args: Any, **kwargs: Any) -> None:
        if not self.built:
            self.build(self.compute_input_shape(outputs.shape))

    def call(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Changes the shape of a batch.

        Args:
            inputs: Tensor `[batch, ...]`, of any dtype if values are only moved.

        Returns:
            The pair of outputs, in their new shape, and log-determinants, which are 0, `[batch]`.
        """
        return self.change(inputs), self.sum_log_det(inputs, None)

    def invert(self, outputs: Tensor) -> Tensor:
        """See :meth:`FlowLayer.invert`."""
        return self.restore(outputs)

    def compute_output_shape(
        self, input_shape: Shape
    ) -> tuple[tuple[int | None, ...], tuple[int | None]]:
        """Returns the shapes of the outputs and log-determinants."""
        shape, _ = read_shape(input_shape, self._shape_, None)
        return (input_shape[0], *self._change_shape(shape)), (input_shape[0],)

    def compute_input_shape(self, output_shape: Shape) -> tuple[int | None, ...]:
        """Returns the shape of inputs, given that of their outputs.

        Args:
            output_shape: Shape of the outputs, `[batch, ...]`.

        Returns:
            Shape of the inputs, `[batch, ...]`.

        Raises:
            ValueError: If `output_shape` does not determine it, and the layer has no `shape`.
        """
        shape: Any = self._shape_
        if shape is None and None not in output_shape[1:]:
            shape = self._restore_shape(list(output_shape[1:]))
        if shape is None:
            raise ValueError(
                f"Layer '{self.name}' should be built before `invert` is called: pass `shape` to "
                "its constructor, or call it on inputs first. "
                f"Received: outputs.shape={tuple(output_shape)}"
            )
        return (output_shape[0], *shape)

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        config = super().get_config()
        del config["axes"]
        return config


@keras.saving.register_keras_serializable(package="gyoza")
class Reshape(_ShapeChange):
    r"""Reshapes its inputs, in row-major order.

    .. math::
        \operatorname{vec}(y) = \operatorname{vec}(x), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = 0

    Args:
        target_shape: Shape of an output, without the batch axis.
        shape: Shape of an input, without the batch axis. If omitted, read from the first inputs.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If inputs do not have as many dimensions in total as `target_shape`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Reshape([2, 2, 1])
        >>> outputs, log_det = layer(np.ones([3, 4], "float32"))
        >>> tuple(outputs.shape), tuple(layer.invert(outputs).shape)
        ((3, 2, 2, 1), (3, 4))
    """

    def __init__(
        self, target_shape: Iterable[int], shape: Iterable[int] | None = None, **kwargs: Any
    ) -> None:
        target, _ = check_shape_and_axes(target_shape, None)
        if target is None:
            raise ValueError("`target_shape` should be given. Received: target_shape=None")
        self.target_shape = target
        super().__init__(shape=shape, **kwargs)

    def _change_shape(self, shape: Sequence[int]) -> list[int]:
        if math.prod(shape) != math.prod(self.target_shape):
            raise ValueError(
                f"Inputs should have {math.prod(self.target_shape)} dimensions in total, as "
                f"`target_shape`, {self.target_shape}, has. Received: inputs of shape {list(shape)}"
            )
        return self.target_shape

    def change(self, inputs: Tensor) -> Tensor:
        """Reshapes to `target_shape`."""
        return ops.reshape(inputs, (-1, *self.target_shape))

    def restore(self, outputs: Tensor) -> Tensor:
        """Reshapes to `shape`."""
        return ops.reshape(outputs, (-1, *self._shape_))

    def get_config(self) -> dict[str, Any]:
        """See :meth:`FlowLayer.get_config`."""
        return {**super().get_config(), "target_shape": list(self.target_shape)}


@keras.saving.register_keras_serializable(package="gyoza")
class Flatten(_ShapeChange):
    r"""Merges all axes of its inputs but the batch axis, in row-major order.

    .. math::
        y = \operatorname{vec}(x), \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = 0

    Args:
        shape: Shape of an input, without the batch axis. If omitted, read from the first inputs.
        **kwargs: Arguments of `keras.Layer`.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Flatten()
        >>> outputs, log_det = layer(np.ones([3, 2, 2, 5], "float32"))
        >>> tuple(outputs.shape), tuple(layer.invert(outputs).shape)
        ((3, 20), (3, 2, 2, 5))
    """

    def _change_shape(self, shape: Sequence[int]) -> list[int]:
        return [math.prod(shape)]

    def change(self, inputs: Tensor) -> Tensor:
        """Flattens instances."""
        return ops.reshape(inputs, (-1, self.dimension_count))

    def restore(self, outputs: Tensor) -> Tensor:
        """Restores the shape of instances."""
        return ops.reshape(outputs, (-1, *self._shape_))


@keras.saving.register_keras_serializable(package="gyoza")
class Squeeze(_ShapeChange):
    r"""Turns each 2×2 block of pixels into one pixel with four times as many channels.

    .. math::
        y_{h, w, c + C (2 i + j)} = x_{2 h + i, 2 w + j, c}, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = 0

    for :math:`i, j \in \{0, 1\}` and images with :math:`C` channels. Subsequent layers that mix
    channels then mix neighbouring pixels.

    Args:
        shape: `[height, width, channels]` of inputs. If omitted, read from the first inputs.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If inputs are not images, or their height or width is odd.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Squeeze()
        >>> image = np.arange(8, dtype="float32").reshape(1, 2, 4, 1)
        >>> keras.ops.convert_to_numpy(image[0, ..., 0])
        array([[0., 1., 2., 3.],
               [4., 5., 6., 7.]], dtype=float32)
        >>> outputs, log_det = layer(image)
        >>> keras.ops.convert_to_numpy(outputs)
        array([[[[0., 1., 4., 5.],
                 [2., 3., 6., 7.]]]], dtype=float32)

    References:
        - Dinh, L., Sohl-Dickstein, J. & Bengio, S. (2017). "Density estimation using Real NVP."
          `arXiv:1605.08803 <https://arxiv.org/abs/1605.08803>`_
    """

    def _change_shape(self, shape: Sequence[int]) -> list[int]:
        return _squeeze_shape(shape, self.name)

    def _restore_shape(self, shape: Sequence[Any]) -> list[int]:
        return _unsqueeze_shape(shape, self.name)

    def change(self, inputs: Tensor) -> Tensor:
        """Moves the pixels of each block to channels."""
        return _squeeze(inputs, self._shape_)

    def restore(self, outputs: Tensor) -> Tensor:
        """Moves channels to the pixels of each block."""
        return _unsqueeze(outputs, self._shape_)


@keras.saving.register_keras_serializable(package="gyoza")
class Unsqueeze(_ShapeChange):
    r"""Turns every four channels of a pixel into a 2×2 block of pixels, the inverse of `Squeeze`.

    .. math::
        y_{2 h + i, 2 w + j, c} = x_{h, w, c + C (2 i + j)}, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = 0

    for :math:`i, j \in \{0, 1\}` and images with :math:`4 C` channels.

    Args:
        shape: `[height, width, channels]` of inputs. If omitted, read from the first inputs.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If inputs are not images, or the number of channels is not a multiple of 4.

    Example:

        >>> layer = gyoza.modelling.flow_layers.Unsqueeze()
        >>> outputs, log_det = layer(np.array([[[[1.0, 2.0, 3.0, 4.0]]]], "float32"))
        >>> keras.ops.convert_to_numpy(outputs[0, :, :, 0])
        array([[1., 2.],
               [3., 4.]], dtype=float32)
    """

    def _change_shape(self, shape: Sequence[int]) -> list[int]:
        return _unsqueeze_shape(shape, self.name)

    def _restore_shape(self, shape: Sequence[Any]) -> list[int]:
        return _squeeze_shape(shape, self.name)

    def change(self, inputs: Tensor) -> Tensor:
        """Moves channels to the pixels of each block."""
        return _unsqueeze(inputs, self._change_shape(self._shape_))

    def restore(self, outputs: Tensor) -> Tensor:
        """Moves the pixels of each block to channels."""
        return _squeeze(outputs, self._change_shape(self._shape_))


@keras.saving.register_keras_serializable(package="gyoza")
class HaarDownsampling(Squeeze):
    r"""Turns each 2×2 block of pixels into one pixel, by the orthonormal Haar wavelet transform.

    .. math::
        \begin{pmatrix} y^{(1)} \\ y^{(2)} \\ y^{(3)} \\ y^{(4)} \end{pmatrix} = \frac{1}{2}
        \begin{pmatrix} 1 & 1 & 1 & 1 \\ 1 & -1 & 1 & -1 \\ 1 & 1 & -1 & -1 \\ 1 & -1 & -1 & 1
        \end{pmatrix} \begin{pmatrix} x_{00} \\ x_{01} \\ x_{10} \\ x_{11} \end{pmatrix}, \qquad
        \log \left| \det \frac{\partial y}{\partial x} \right| = 0,

    for each channel, where :math:`x_{ij}` is the pixel in row :math:`i` and column :math:`j` of the
    block. For inputs with :math:`C` channels, the first :math:`C` channels of the outputs are an
    image of half the size, with twice the mean of each block. They are followed by :math:`C`
    channels each of differences between columns, between rows, and between the diagonals.

    Args:
        shape: `[height, width, channels]` of inputs. If omitted, read from the first inputs.
        **kwargs: Arguments of `keras.Layer`.

    Raises:
        ValueError: If inputs are not images, or their height or width is odd.

    Example:

        >>> layer = gyoza.modelling.flow_layers.HaarDownsampling()
        >>> image = np.array([[1.0, 2.0], [3.0, 6.0]], "float32").reshape(1, 2, 2, 1)
        >>> outputs, log_det = layer(image)
        >>> keras.ops.convert_to_numpy(outputs[0, 0, 0])
        array([ 6., -2., -3.,  1.], dtype=float32)

    References:
        - Haar, A. (1910). "Zur Theorie der orthogonalen Funktionensysteme." Mathematische Annalen
          69, 331-371.
        - Ardizzone, L., Lüth, C., Kruse, J., Rother, C. & Köthe, U. (2019). "Guided image
          generation with conditional invertible neural networks."
          `arXiv:1907.02392 <https://arxiv.org/abs/1907.02392>`_
    """

    moves_any_dtype = False

    def change(self, inputs: Tensor) -> Tensor:
        """Transforms the pixels of each block to channels."""
        return _transform_by_haar(super().change(inputs))

    def restore(self, outputs: Tensor) -> Tensor:
        """Transforms channels to the pixels of each block."""
        # The matrix is its own inverse.
        return super().restore(_transform_by_haar(outputs))


def _check_image(shape: Sequence[int], name: str) -> None:
    if len(shape) != 3:
        raise ValueError(
            f"The images of '{name}' should have shape [height, width, channels] after the batch "
            f"axis. Received: shape={list(shape)}"
        )


def _squeeze_shape(shape: Sequence[int], name: str) -> list[int]:
    _check_image(shape, name)
    height, width, channels = shape
    if height % 2 or width % 2:
        raise ValueError(
            f"The images of '{name}' should have even height and width. "
            f"Received: height={height}, width={width}"
        )
    return [height // 2, width // 2, 4 * channels]


def _unsqueeze_shape(shape: Sequence[int], name: str) -> list[int]:
    _check_image(shape, name)
    height, width, channels = shape
    if channels % 4:
        raise ValueError(
            f"The number of channels for '{name}' should be a multiple of 4. "
            f"Received: channels={channels}"
        )
    return [2 * height, 2 * width, channels // 4]


def _squeeze(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Moves the pixels of each block to channels, for images of `shape`."""
    height, width, channels = shape
    x = ops.reshape(x, (-1, height // 2, 2, width // 2, 2, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height // 2, width // 2, 4 * channels))


def _unsqueeze(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Moves channels to the pixels of each block, which gives images of `shape`."""
    height, width, channels = shape
    x = ops.reshape(x, (-1, height // 2, width // 2, 2, 2, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height, width, channels))


def _transform_by_haar(x: Tensor) -> Tensor:
    """Multiplies the four quarters of channels by the Haar matrix, which is symmetric."""
    upper_left, upper_right, lower_left, lower_right = ops.split(x, 4, axis=-1)
    upper_sum, upper_difference = upper_left + upper_right, upper_left - upper_right
    lower_sum, lower_difference = lower_left + lower_right, lower_left - lower_right
    quarters = [
        upper_sum + lower_sum,
        upper_difference + lower_difference,
        upper_sum - lower_sum,
        upper_difference - lower_difference,
    ]
    return 0.5 * ops.concatenate(quarters, axis=-1)
