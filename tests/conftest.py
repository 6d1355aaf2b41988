"""Set-up of all tests."""

import os

# Before anything imports JAX, which computes in float32 at most otherwise.
os.environ.setdefault("JAX_ENABLE_X64", "true")
# Compiling takes most of the time of tests on JAX, and running next to none.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import keras
import pytest


@pytest.fixture(autouse=True)
def seed():
    """Starts every test from the same random state."""
    keras.utils.set_random_seed(0)
