"""Set-up of the tests of figures."""

import matplotlib
import pytest
from matplotlib import pyplot as plt

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def figures():
    """Checks that no function changes the settings of Matplotlib, and closes all figures."""
    settings = matplotlib.rcParams.copy()
    yield
    assert matplotlib.rcParams == settings
    plt.close("all")


@pytest.fixture
def ax():
    """Returns axes of a figure with other axes, on which no function may draw."""
    _, (mine, other) = plt.subplots(1, 2)
    plt.sca(other)
    yield mine
    assert not other.has_data()
    assert not other.texts
    assert len(plt.get_fignums()) == 1
