"""Seeds of random numbers."""

import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from gyoza.backend import Saveable, check_states_change, flatten_layers, list_seeds, mark_replica
from gyoza.modelling.functions.checks import check_integer
from gyoza.typing import Tensor

__all__ = ["SeedGenerator", "OtherSeeds", "scramble", "to_seed"]

_LOCK = threading.Lock()


def scramble(seed: int) -> int:
    """Returns another seed below 2³¹, made of all digits of a non-negative integer."""
    (state,) = np.random.SeedSequence(seed).generate_state(1)
    return int(state) // 2


def to_seed(seed: int) -> int:
    """Returns a seed that Keras takes on every backend: those below 2³¹ as they are.

    Args:
        seed: A non-negative integer of any size.

    Raises:
        ValueError: If it is not such an integer.
    """
    seed = check_integer("seed", seed)
    return seed if seed < 1 << 31 else scramble(seed)


def _load_state(generator: keras.random.SeedGenerator, store: Any, name: str) -> None:
    """Sets the state of a generator to one that was saved, on whatever backend, if there is one."""
    if name not in store.keys():  # noqa: SIM118 - it has no other way to ask
        return  # as in files that are older
    state = np.asarray(store[name]).astype("int64")
    dtype = keras.backend.standardize_dtype(generator.state.dtype)
    # Other backends hold the same 32 bits as other numbers.
    generator.state.assign(state if dtype == "int64" else state.astype("uint32").astype(dtype))


class SeedGenerator(Saveable, keras.random.SeedGenerator):
    """A `keras.random.SeedGenerator` whose seeds differ between threads and replicas.

    With Keras's own generator, two threads that ask at the same time can get the same seed, and the
    replicas of a `tf.distribute` strategy do. Also, Keras does not save the states of its own: a
    model that is loaded would go on with other random numbers.

    Args:
        seed: Non-negative integer to start from, or `None` to start from a random one.
        **kwargs: Arguments of `keras.random.SeedGenerator`.
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(None if seed is None else to_seed(seed), **kwargs)

    def next(self, ordered: bool = True) -> Tensor:
        """Returns the next seed; see `keras.random.SeedGenerator`."""
        check_states_change()
        with _LOCK:
            seed = super().next(ordered)
        return mark_replica(seed)

    def save_own_variables(self, store: Any) -> None:
        """Saves the state; see `keras.Layer.save_own_variables`."""
        store["state"] = self.state

    def load_own_variables(self, store: Any) -> None:
        """Loads the state if there is one; see `keras.Layer.load_own_variables`."""
        _load_state(self, store, "state")


class OtherSeeds(Saveable):
    """Saves and loads the states of those generators of a model that are not gyoza's.

    Keras' own layers have such, `keras.layers.Dropout` for one.

    Args:
        model: The model.
    """

    def __init__(self, model: keras.Model) -> None:
        # Keras would look for what to load in an attribute, and find the model within itself.
        self.get_model = weakref.ref(model)

    def _list(self) -> Iterator[tuple[str, Any]]:
        """Yields generators with names that they have again when the model is loaded."""
        counts: Counter[str] = Counter()
        layers: Iterable[Any] = flatten_layers(self.get_model())
        for layer in layers:
            for generator in list_seeds(layer):
                if not isinstance(generator, SeedGenerator):
                    yield f"{layer.name}_{counts[layer.name]}", generator
                    counts[layer.name] += 1

    def save_own_variables(self, store: Any) -> None:
        """Saves the states; see `keras.Layer.save_own_variables`."""
        for name, generator in self._list():
            store[name] = generator.state

    def load_own_variables(self, store: Any) -> None:
        """Loads those states that there are; see `keras.Layer.load_own_variables`."""
        for name, generator in self._list():
            _load_state(generator, store, name)
