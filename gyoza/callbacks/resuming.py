"""A callback with which training that was interrupted ends as if it had not been."""

import itertools
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import keras

from gyoza.backend import get_random_states, set_random_states
from gyoza.callbacks.backups import is_plain, read_backup, remove_backup, write_backup
from gyoza.callbacks.data_order import check_order, describe_data, list_sources, skip_epochs
from gyoza.callbacks.states import (
    CallbackStates,
    describe_model,
    list_variables,
    read_values,
    write_values,
)
from gyoza.modelling.functions.checks import check_integer

__all__ = ["ResumableTraining"]

_FILE_NAME = "training.npz"


class ResumableTraining(keras.callbacks.Callback):
    """Backs up the state of training, so that the same script, run again, goes on where it was.

    After an interruption at any moment, training ends with the same weights, bit for bit, as
    without. For this, a backup has the weights, the states of the optimizer and of random
    generators, the order of the data and the position in it, the states of other callbacks, such as
    `keras.callbacks.EarlyStopping`, and the history, which `fit` returns as a whole. It needs the
    same script, backend, versions and kind of machine, since others round differently.

    The file is written whole or not at all: to another file first, which then takes its place. A
    kill at any moment leaves the last backup as it is, and so does a full disk, of which a warning
    tells. It contains arrays and JSON, and reading it runs no code.

    The model is one of gyoza's, and the data are

    - arrays, shuffled or not. Where TensorFlow itself shuffles them, as with `validation_split`, it
      needs `keras.utils.set_random_seed`.
    - `gyoza.data.CategoricalPairs` and `gyoza.data.ContinuousPairs`, or another
      `keras.utils.PyDataset`. If that changes between epochs, it needs a method `get_state`, which
      returns plain values and arrays, and `set_state`, which takes them.
    - a `tf.data.Dataset` that yields the same batches in each epoch, or, with `steps_per_epoch`,
      has no end and, if shuffled, a seed.

    A callback of your own is kept by its attributes, if they are plain values and arrays, or by
    methods of these two names. Random numbers that come neither from `keras.random` nor from global
    generators of Python, NumPy or PyTorch are not kept.

    Args:
        backup_dir: The folder of the backup, which is made if it is missing. Nothing else should
            write to it.
        save_freq: `"epoch"`, to back up at the end of each epoch, or the number of batches after
            which to do so. Within an epoch, training goes on with the next batch: those that it has
            taken are read again, but not trained on. Steps are then taken one by one, which takes
            longer for small models.
        delete_checkpoint: Whether to remove the backup at the end of training. If not, `fit` in the
            same script returns at once from then on.

    Raises:
        ValueError: By `fit`, if the backup is of another model, optimizer or data, or cannot be
            read, if the order of the data could not be established again, or if `tf.distribute`
            trains the model on several devices.
        TypeError: By `fit` of a model that is not one of gyoza's, since Keras tells callbacks
            neither of the data nor of each other.
        OSError: By `fit`, if the first backup, at its beginning, cannot be written.

    Example:

        >>> import tempfile
        >>> from gyoza.modelling import flow_layers
        >>> folder = tempfile.mkdtemp()
        >>> x = np.random.default_rng(0).normal(size=[64, 2]).astype("float32")
        >>> model = flow_layers.FlowModel([flow_layers.ActivationNormalization()])
        >>> model.compile("adam")
        >>> resumable = gyoza.callbacks.ResumableTraining(folder, delete_checkpoint=False)
        >>> history = model.fit(x, epochs=2, callbacks=[resumable], verbose=0)
        >>> history = model.fit(x, epochs=5, callbacks=[resumable], verbose=0)  # three more
        >>> history.epoch, int(model.optimizer.iterations)
        ([0, 1, 2, 3, 4], 10)
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        delete_checkpoint: bool = True,
    ) -> None:
        super().__init__()
        if not str(backup_dir):
            raise ValueError(
                f"`backup_dir` should be the path of a folder. Received: backup_dir={backup_dir!r}"
            )
        if save_freq != "epoch":
            check_integer("save_freq", save_freq, minimum=1)
        self.backup_dir = pathlib.Path(backup_dir)
        self.save_freq = save_freq
        self.delete_checkpoint = delete_checkpoint
        self._path = self.backup_dir / _FILE_NAME
        self._data: dict[str, Any] | None = None  # as `prepare_fit` finds them
        self._backup: Any = None  # until it is restored
        if save_freq != "epoch":
            # Keras and `fit` wait for steps if a callback has this hook, whatever it does.
            self.on_train_batch_end = self._count_batch

    def prepare_fit(self, model: keras.Model, arguments: dict[str, Any]) -> dict[str, Any]:
        """Reads the backup, if there is one. `fit` calls it.

        Args:
            model: The model.
            arguments: The arguments of `fit`, by name.

        Returns:
            Arguments that begin with the epoch in which to go on.
        """
        strategy = getattr(model, "distribute_strategy", None)  # of TensorFlow
        if getattr(strategy, "num_replicas_in_sync", 1) > 1:
            raise ValueError(
                "The model should not be trained on several devices by `tf.distribute`, whose "
                "random numbers cannot be restored: take `keras.callbacks.BackupAndRestore`. "
                f"Received: {type(strategy).__name__}"
            )
        others = _flatten_callbacks(arguments)
        others.remove(self)
        if any(isinstance(other, ResumableTraining) for other in others):
            raise ValueError(
                "`callbacks` should contain one `ResumableTraining`. Received: several"
            )
        check_order(arguments)
        self._others, self._sources = others, list_sources(arguments)
        self._data = describe_data(arguments)
        self._epoch = arguments.get("initial_epoch", 0)
        self._backup = backup = read_backup(self._path)
        arguments = _put_last(self, arguments)
        if backup is None:
            return arguments
        self._check(self._data, backup["data"])
        self._epoch = backup["epoch"]
        has_stopped = backup["stop_training"] and not backup["execution"]
        step_count = self._epoch * (arguments.get("steps_per_epoch") or 0)
        return {
            **arguments,
            "x": skip_epochs(arguments["x"], step_count),
            "initial_epoch": arguments.get("epochs", 1) if has_stopped else self._epoch,
        }

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the backup, or makes the first one."""
        model = self.model
        if self._data is None:
            raise TypeError(
                "The model should be one of gyoza's, whose `fit` tells callbacks of the data and "
                f"of each other. Received: a {type(model).__name__}"
            )
        if not model.built:
            raise ValueError(
                "A model should be built, as by calling it, before training that is to be resumed. "
                f"Received: model '{model.name}'"
            )
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        # After an interruption within an epoch that was skipped in part:
        model.train_function = getattr(model.train_function, "skipped", model.train_function)
        self._states = CallbackStates(self._others)
        self._training = {**describe_model(model), "steps per execution": model.steps_per_execution}
        self._metric_count = len(model.metrics_variables)
        self._is_due = False
        self._unsaved = 0  # batches since the last backup
        if self._backup is None:
            self.backup_dir.mkdir(parents=True, exist_ok=True)
            self._order = self._get_order()
            write_backup(self._path, self._collect(self._epoch))
            return
        if self._backup["execution"] and self.save_freq == "epoch":
            raise ValueError(
                "`save_freq` should be a number of batches, since the backup was made within an "
                "epoch. Received: save_freq='epoch'"
            )
        self._check(self._training, self._backup["training"])
        self._restore()
        self._set_order()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Goes to the position of the backup within the epoch, or remembers how it began."""
        self._epoch, self._execution, self._batch = epoch, 0, 0
        backup = self._backup
        if backup is None:
            if self.save_freq != "epoch":
                self._order = self._get_order()
            return
        self._restore_history()
        if not backup["execution"]:
            self._order = self._get_order()
            self._backup = None
            return
        # Other callbacks have begun the epoch a second time.
        self._restore()
        self._set_order()
        self._order = backup["order"]
        model = self.model
        model.train_function = _skip(
            model.train_function, model.steps_per_execution, backup["logs"]
        )

    def _count_batch(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Makes a backup every `save_freq` batches."""
        self._execution += 1
        taken = batch + 1 - self._batch
        self._batch = batch + 1
        if self._backup is not None:
            if self._execution == self._backup["execution"]:
                model = self.model
                model.train_function = model.train_function.skipped
                self._restore()
                set_random_states(self._backup["random"])
                model.stop_training = self._backup["stop_training"]
                self._backup = None
            return
        self._unsaved += taken
        if self._unsaved < self.save_freq:  # type: ignore[operator]
            return
        if len(self.model.metrics_variables) != self._metric_count:
            # They were created within the first step, and would not be there yet to be restored.
            self._is_due = True
            return
        self._unsaved = 0
        self._save(self._collect(self._epoch, self._execution, logs))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Makes a backup, unless `save_freq` is a number of batches."""
        if self.save_freq != "epoch" and not self._is_due:
            return
        self._is_due, self._unsaved = False, 0
        self._order = self._get_order()
        state = self._collect(epoch + 1)
        history = state["history"]
        if epoch not in history["epoch"]:  # Keras' own callback is the next one
            history["epoch"].append(epoch)
            for name, value in (logs or {}).items():
                history["history"].setdefault(name, []).append(value)
        self._save(state)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Removes the backup, if requested."""
        if self._backup is not None:  # there was no epoch left to train
            self._restore_history()
        self._data = None
        if self.delete_checkpoint:
            remove_backup(self._path)

    def _collect(
        self, epoch: int, execution: int = 0, logs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Returns the state of training.

        Args:
            epoch: The epoch to go on with.
            execution: How often the train function has been called in it.
            logs: What that returned last.
        """
        model = self.model
        history = getattr(model, "history", None)
        values = getattr(history, "history", {})
        return {
            "epoch": epoch,
            "execution": execution,
            "logs": {name: value for name, value in (logs or {}).items() if is_plain(value)},
            "stop_training": bool(model.stop_training),
            "data": self._data,
            "training": self._training,
            "variables": read_values(list_variables(model)),
            "metrics": read_values(model.metrics_variables),
            "random": get_random_states(),
            "order": self._order,
            "callbacks": self._states.get(),
            "history": {
                "epoch": list(getattr(history, "epoch", [])),
                "history": {name: list(value) for name, value in values.items()},
            },
        }

    def _save(self, state: dict[str, Any]) -> None:
        try:
            write_backup(self._path, state)
        except OSError as error:
            warnings.warn(
                f"A backup of training could not be written, and that before it was left as it is: "
                f"{error}",
                RuntimeWarning,
                stacklevel=2,
            )

    def _restore(self) -> None:
        """Restores the model and the other callbacks."""
        model = self.model
        write_values(list_variables(model), self._backup["variables"])
        if len(self._backup["metrics"]) == len(model.metrics_variables):
            write_values(model.metrics_variables, self._backup["metrics"])
        self._states.set(self._backup["callbacks"])

    def _restore_history(self) -> None:
        history = getattr(self.model, "history", None)
        if history is not None:
            history.epoch = list(self._backup["history"]["epoch"])
            history.history = dict(self._backup["history"]["history"])

    def _get_order(self) -> dict[str, Any]:
        """Returns what the order of the data depends on, at the beginning of an epoch."""
        states = [source.get_state() for source in self._sources]
        return {"random": get_random_states(), "sources": states}

    def _set_order(self) -> None:
        order = self._backup["order"]
        for source, state in zip(self._sources, order["sources"], strict=True):
            source.set_state(state)
        set_random_states(order["random"])

    def _check(self, current: dict[str, Any], saved: dict[str, Any]) -> None:
        """Raises an error if what is trained is not what was backed up."""
        for name in {**saved, **current}:
            if current.get(name) != saved.get(name):
                raise ValueError(
                    f"A backup should be of the same training, or be removed. That in "
                    f"'{self.backup_dir}' was made with {name}: {saved.get(name)}. "
                    f"Received: {name}: {current.get(name)}"
                )


def _flatten_callbacks(arguments: dict[str, Any]) -> list[keras.callbacks.Callback]:
    callbacks = arguments["callbacks"]
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return keras.tree.flatten(callbacks)


def _put_last(callback: keras.callbacks.Callback, arguments: dict[str, Any]) -> dict[str, Any]:
    """Lets a callback come last, so that it sees what all others have done."""
    callbacks = [other for other in _flatten_callbacks(arguments) if other is not callback]
    callbacks.append(callback)
    if isinstance(arguments["callbacks"], keras.callbacks.CallbackList):
        arguments["callbacks"].callbacks[:] = callbacks
        return arguments
    return {**arguments, "callbacks": callbacks}


def _skip(
    train_function: Callable[..., Any], steps: int, logs: dict[str, Any] | None
) -> Callable[..., Any]:
    """Returns what takes batches as a function of Keras' does, and does nothing with them."""

    def skip(*arguments: Any) -> Any:
        *state, batches = arguments  # on JAX, the state of the model comes first
        if not list(itertools.islice(batches, steps)):
            raise StopIteration
        return (logs, *state) if state else logs

    skip.skipped = train_function  # type: ignore[attr-defined]
    return skip
