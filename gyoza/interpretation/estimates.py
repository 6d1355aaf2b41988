"""Means over seeds with their standard errors, and tables of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Estimate", "format_table"]


class Estimate(NamedTuple):
    """A mean over seeds with its standard error, which is NaN for a single seed.

    NaN stands for a value that could not be measured, and is left out; if no value is left, the
    mean and the error are NaN.

    Attributes:
        mean: The mean.
        error: Its standard error.

    Example:

        >>> estimate = gyoza.interpretation.Estimate.of([91.0, 93.0, 92.0])
        >>> print(estimate)
        92.00 ± 0.58
        >>> print(f"{estimate:.1f} %")
        92.0 ± 0.6 %
    """

    mean: float
    error: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Estimate":
        """Estimates the mean from one value for each seed."""
        known = [value for value in values if not np.isnan(value)]
        error = np.std(known, ddof=1) / np.sqrt(len(known)) if len(known) > 1 else np.nan
        return cls(float(np.mean(known)) if known else np.nan, float(error))

    def __str__(self) -> str:
        """Returns the mean, and the error if there is one, with two decimal places."""
        return format(self, ".2f")

    def __format__(self, format_spec: str) -> str:
        """Returns the mean, and the error if there is one, each in the given format."""
        numbers = self[:1] if np.isnan(self.error) else self
        return " ± ".join(format(number, format_spec or ".2f") for number in numbers)


def format_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Returns some columns of a table as aligned text.

    Args:
        rows: The rows, as dictionaries.
        columns: The keys of the columns that are shown.

    Returns:
        The table, with a line for the names of the columns and one for each row.
    """
    cells = [list(columns), *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)
