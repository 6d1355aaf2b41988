"""What the page on scaling shows for Dask, which no other test needs, scores a table."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from keras import ops

from gyoza.applications import RealNVP

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"


@pytest.mark.long
def test_dask_scores_parts_of_a_table(tmp_path, monkeypatch):
    dask = pytest.importorskip("dask.dataframe")
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    module, script = code
    x = np.random.default_rng(0).normal(size=(100, 2)).astype("float32")
    model = RealNVP(layer_count=2, hidden_sizes=[8])
    model.adapt(x)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("scoring.py").write_text(module, "utf-8")
    model.save("model.keras")
    dask.from_pandas(pd.DataFrame(x, columns=["a", "b"]), npartitions=4).to_parquet("table/")
    exec(script, {})
    scored = dask.read_parquet("scored/").compute()
    assert list(scored.columns) == ["a", "b", "log_prob"]
    np.testing.assert_array_equal(scored[["a", "b"]], x)
    expected = ops.convert_to_numpy(model.log_prob(x))
    np.testing.assert_allclose(scored["log_prob"], expected, rtol=1e-5, atol=1e-6)
