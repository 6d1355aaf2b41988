"""What all conditioners have in common."""

from collections.abc import Sequence
from typing import Any

import keras

__all__ = ["Conditioner"]


@keras.saving.register_keras_serializable(package="gyoza")
class Conditioner(keras.Layer):
    """Base class of networks that are given only what a coupling keeps, for what it changes.

    Any Keras layer or model can compute coupling parameters. A plain one sees tensors in their full
    shape, with zeros where the coupling changes them, and also answers in full shape. A
    `Conditioner` sees the kept entries alone, `[batch, ..., kept entries]`, and answers with the
    parameters of the changed entries alone, `[batch, ..., output_size]`, so nothing is computed and
    thrown away. The coupling sets `output_size` before it builds the conditioner.

    Args:
        output_size: The number of outputs per position, or `None` to let the coupling set it.
        **kwargs: Arguments of `keras.Layer`.
    """

    def __init__(self, output_size: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.output_size = output_size

    def set_output_size(self, output_size: int) -> None:
        """Fixes the number of outputs; called by the coupling before it builds the conditioner.

        Args:
            output_size: The number of outputs per position.

        Raises:
            ValueError: If the conditioner has another number of outputs already, as it has when it
                is shared by couplings of different size.
        """
        if self.output_size not in (None, output_size):
            raise ValueError(
                f"Conditioner '{self.name}' should have {output_size} outputs for this coupling. "
                f"Received: output_size={self.output_size}"
            )
        self.output_size = output_size

    def sees_kept_entries(self, axes: Sequence[int]) -> bool:
        """Tells whether the conditioner is given kept entries alone by a coupling along `axes`.

        If it is not, because it needs to know where entries are, it is given the inputs in full
        shape, with zeros where the coupling changes them, and answers for all entries, also those
        that are kept: `output_size` is then the parameters of all entries of the last axis.

        Args:
            axes: The axes that the coupling transforms.
        """
        return True

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Gives the shape of the outputs: that of the inputs, but for the last axis."""
        return (*input_shape[:-1], self.output_size)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which `from_config` makes an equal layer."""
        return {**super().get_config(), "output_size": self.output_size}
