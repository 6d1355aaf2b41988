"""What all parts share: training, and tables for the documentation."""

import pathlib
import time

import keras
import numpy as np
from keras import ops

DOCS = pathlib.Path(__file__).parents[2] / "docs"
BATCH_SIZE = 512
CLIP = 5.0


def to_numpy(x):
    """Returns a tensor of the backend as an array."""
    return np.asarray(ops.convert_to_numpy(x))


def train(model, x, steps, learning_rate, batch_size=BATCH_SIZE, **options):
    """Trains a model by likelihood, at a learning rate that falls to zero as a cosine."""
    model.adapt(x[:5000])
    epochs = -(-steps // -(-len(x) // batch_size))
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    optimizer = keras.optimizers.Adam(schedule, global_clipnorm=CLIP)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer)
    start = time.perf_counter()
    model.fit(x, batch_size=batch_size, epochs=epochs, verbose=0, **options)
    return time.perf_counter() - start


def choose(names, words):
    """Returns the names that contain any of the words, or all names if no word is given."""
    return [name for name in names if any(word.lower() in name.lower() for word in words or [""])]


def write_table(name, header, rows, note, words=()):
    """Prints a table in Markdown, and puts it into the documentation if it is complete."""
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}\n"
    print(f"\n{table}", flush=True)
    if not words:
        (DOCS / "accuracy" / f"{name}.md").write_text(table, encoding="utf-8")
