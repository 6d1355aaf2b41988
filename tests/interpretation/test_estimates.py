import numpy as np

from gyoza.interpretation import Estimate


def test_estimate_leaves_out_what_could_not_be_measured():
    assert Estimate.of([1.0, 2.0, np.nan, 3.0]) == (2.0, 1 / np.sqrt(3))
    assert np.isnan(Estimate.of([1.0]).error)
    assert np.all(np.isnan(Estimate.of([np.nan])))


def test_estimate_is_written_in_any_format_with_an_error_if_there_is_one():
    estimate = Estimate.of([91.0, 93.0, 92.0])
    assert str(estimate) == f"{estimate}" == "92.00 ± 0.58"
    assert f"{estimate:.1f}" == "92.0 ± 0.6"
    assert str(Estimate.of([0.5])) == "0.50"
    assert f"{Estimate.of([0.5]):.0%}" == "50%"
