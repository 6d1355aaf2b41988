"""Checks for the authors of flow layers."""

from gyoza.testing.flow_layer_checks import check_flow_layer

__all__ = ["check_flow_layer"]
