"""Files of models: what is written besides what Keras writes, and what is rejected."""

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from gyoza.backend import KerasHooks
from gyoza.modelling.seeds import OtherSeeds

__all__ = ["SavesFiles", "WritesFiles", "get_temporary", "write_atomically"]

# Keras' error for a class that it does not know has all that is part of its configuration.
_NOTE = "To load this file, run `import gyoza` before."


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[Path]:
    """Writes a file as a whole or not at all: until it is complete, the old one is there.

    Args:
        path: Where the file is to be.

    Yields:
        The path of a new file in the same folder, as :func:`get_temporary` names it. Once that is
        written, it takes the place of the old one.

    Raises:
        OSError: If it cannot be written, as on a full disk. Then the old file stays as it is.
    """
    target = Path(os.path.realpath(path))  # what a link points to, not the link, is replaced
    temporary = get_temporary(target)
    try:
        yield temporary
        if target.exists():
            shutil.copymode(target, temporary)
        _flush(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # where folders cannot be opened
        _flush(target.parent)


def get_temporary(path: Path) -> Path:
    """Returns the path of the file that is written before it takes the place of another.

    Its name, which ends with that of the other, is always the same, so that what a process leaves
    when it is killed is overwritten by the next one.
    """
    return path.with_name(f".new-{path.name}")


def _flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    # On Windows, only what can be written can be flushed.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_local_file(path: Any, overwrite: bool) -> bool:
    """Returns whether a path is that of one file that Keras writes without asking."""
    if not isinstance(path, str | os.PathLike) or not Path(path).parent.is_dir():
        return False
    return overwrite or not Path(path).exists()


class SavesFiles(keras.Model):
    """A Keras model that is saved as a whole or not at all, with states of random generators."""

    def save(
        self,
        filepath: str | os.PathLike[str],
        overwrite: bool = True,
        zipped: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Saves the model, as a `.keras` file; see `keras.Model.save`.

        A file that is there is replaced once the new one is complete, so that a full disk, or a
        process that is killed, leaves the old one. (`keras.saving.save_model(model, …)` overwrites
        it in place.) The states of random generators are part of the file: a model that is loaded
        draws the same numbers that the saved one goes on with. Processes that load the same file,
        to sample from it, say, should pass seeds.

        Args:
            filepath: Where to write the file.
            overwrite: Whether to replace a file without asking.
            zipped: See `keras.Model.save`.
            **kwargs: Likewise.

        Raises:
            ValueError: If the path does not end in `.keras`.
            OSError: If the file cannot be written. Then an old one stays as it is.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                "`filepath` should end in '.keras': an HDF5 file of this model could not be "
                "loaded. `save_weights` writes weights alone to '.weights.h5'. "
                f"Received: filepath={filepath}"
            )
        optimizer = getattr(self, "optimizer", None)
        if self.built and optimizer is not None and not optimizer.built:
            optimizer.build(self.trainable_variables)  # or Keras would miss its state while loading
        is_zipped = zipped is not False and str(filepath).endswith(".keras")
        if not is_zipped or not _is_local_file(filepath, overwrite):
            return super().save(filepath, overwrite, zipped, **kwargs)
        with write_atomically(filepath) as path:
            return super().save(path, zipped=zipped, **kwargs)

    def save_weights(
        self, filepath: str | os.PathLike[str], overwrite: bool = True, **kwargs: Any
    ) -> None:
        """Saves the weights, as a `.weights.h5` file; see `keras.Model.save_weights`.

        A file that is there is replaced once the new one is complete; see :meth:`save`.

        Args:
            filepath: Where to write the file.
            overwrite: Whether to replace a file without asking.
            **kwargs: See `keras.Model.save_weights`. With a `max_shard_size`, files are written
                over.

        Raises:
            ValueError: If the path does not end in `.weights.h5`.
            OSError: If the file cannot be written. Then an old one stays as it is.
        """
        if kwargs.get("max_shard_size") is not None or not _is_local_file(filepath, overwrite):
            return super().save_weights(filepath, overwrite, **kwargs)
        with write_atomically(filepath) as path:
            return super().save_weights(path, **kwargs)

    @functools.cached_property
    def _other_seeds(self) -> OtherSeeds:
        # Keras saves, and loads, what it finds in attributes.
        return OtherSeeds(self)

    def get_build_config(self) -> dict[str, Any] | None:
        """Returns the shapes that the model was built for; see `keras.Model.get_build_config`."""
        config = super().get_build_config()
        return {**config, "note": _NOTE} if config else config

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds the model for the shapes that `get_build_config` returned."""
        super().build_from_config({name: config[name] for name in config if name != "note"})


class WritesFiles(KerasHooks, SavesFiles):
    """A Keras model that is saved, and exported with its context, if it has one."""

    # The shape of a context without its batch axis, and its dtype; `None` without one.
    context_shape: tuple[int | None, ...] | None = None
    context_dtype: str | None = None

    def _describe_inputs(self) -> tuple[Any, Any]:
        """Returns descriptions of inputs and their context, `None` for what is not known."""
        shape = (self.get_build_config() or {}).get("input_shape") or ()
        if not shape or not isinstance(shape[-1], int | None):
            return None, None
        shape = (None, *shape[1:])
        inputs = keras.InputSpec(shape=shape, dtype=self.input_dtype, name="inputs")
        if self.context_shape is None:
            return inputs, None
        shape, dtype = (None, *self.context_shape), self.context_dtype
        return inputs, keras.InputSpec(shape=shape, dtype=dtype, name="context")

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",  # noqa: A002 - Keras's name
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Writes `call` to a file for inference; see `keras.Model.export`.

        A conditional model is exported as a function of `{"inputs": …, "context": …}`.
        """
        inputs, context = self._describe_inputs()
        if input_signature is None and inputs is not None:
            if context is not None:
                inputs = {"inputs": inputs, "context": context}
            input_signature = [inputs]
        return super().export(filepath, format, verbose, input_signature=input_signature, **kwargs)

    def _takes_inputs_alone(self) -> bool:
        return self.context_shape is None
