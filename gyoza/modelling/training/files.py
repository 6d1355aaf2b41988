"""Files of models: what is written besides what Keras writes, and what is refused."""

from typing import Any

import keras

from gyoza.backend import KerasHooks

__all__ = ["WritesFiles"]


class WritesFiles(KerasHooks, keras.Model):
    """A Keras model that is saved and exported with its context, if it has one."""

    # The shape of a context without its batch axis, and its dtype; `None` without one.
    context_shape: tuple[int | None, ...] | None = None
    context_dtype: str | None = None

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Saves the model, as a `.keras` file; see `keras.Model.save`."""
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                "`filepath` should end in '.keras': an HDF5 file of this model could not be "
                "loaded. `save_weights` writes weights alone to '.weights.h5'. "
                f"Received: filepath={filepath}"
            )
        return super().save(filepath, *args, **kwargs)

    def export(self, filepath: Any, *args: Any, input_signature: Any = None, **kwargs: Any) -> Any:
        """Writes `call` to a file for inference; see `keras.Model.export`.

        A conditional model is exported as a function of `{"inputs": …, "context": …}`. To export
        `log_prob`, `invert` or `sample`, use `keras.export.ExportArchive`.
        """
        shape = (self.get_build_config() or {}).get("input_shape") or ()
        if input_signature is None and shape and isinstance(shape[-1], int | None):
            inputs: Any = keras.InputSpec(shape=(None, *shape[1:]), dtype=self.input_dtype)
            if self.context_shape is not None:
                shape, dtype = (None, *self.context_shape), self.context_dtype
                inputs = {"inputs": inputs, "context": keras.InputSpec(shape=shape, dtype=dtype)}
            input_signature = [inputs]
        return super().export(filepath, *args, input_signature=input_signature, **kwargs)

    def _takes_inputs_alone(self) -> bool:
        return self.context_shape is None
