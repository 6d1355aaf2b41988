"""Callbacks for training."""

from gyoza.callbacks.not_finite import TerminateOnNonFinite
from gyoza.callbacks.resuming import ResumableTraining

__all__ = ["ResumableTraining", "TerminateOnNonFinite"]
