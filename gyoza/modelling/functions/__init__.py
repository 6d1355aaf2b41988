"""Pure functions of tensors, of which layers and distributions are made."""

from gyoza.modelling.functions.adjoints import solve_with_adjoint, solve_with_recomputation
from gyoza.modelling.functions.importance import effective_sample_size, log_evidence
from gyoza.modelling.functions.log_odds import normal_log_odds, normal_quantile
from gyoza.modelling.functions.logistic_mixtures import mixture_log_odds, mixture_quantile
from gyoza.modelling.functions.loops import repeat
from gyoza.modelling.functions.roots import find_root
from gyoza.modelling.functions.scales import bound_log_scales, check_log_scale_bound
from gyoza.modelling.functions.solvers import solve, solve_adaptively
from gyoza.modelling.functions.spectral_norms import bound_spectral_norm
from gyoza.modelling.functions.splines import (
    check_spline,
    circular_spline,
    rational_quadratic_spline,
)
from gyoza.modelling.functions.traces import (
    compute_products,
    compute_quadratic_forms,
    make_units,
)
from gyoza.modelling.functions.transport_plans import compute_transport_plan, draw_sources

__all__ = [
    "rational_quadratic_spline",
    "circular_spline",
    "check_spline",
    "mixture_log_odds",
    "mixture_quantile",
    "normal_log_odds",
    "normal_quantile",
    "effective_sample_size",
    "log_evidence",
    "find_root",
    "bound_log_scales",
    "check_log_scale_bound",
    "bound_spectral_norm",
    "repeat",
    "solve",
    "solve_adaptively",
    "solve_with_recomputation",
    "solve_with_adjoint",
    "compute_products",
    "compute_quadratic_forms",
    "make_units",
    "compute_transport_plan",
    "draw_sources",
]
