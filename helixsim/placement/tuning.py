"""Tuning constants of the placement search; docs/placement.md tabulates the measured effect of each.

They trade flow against CPU time and do not affect validity: every placement is checked, its max-flow is exact, and the
upper bound holds for any value.
"""

from __future__ import annotations

from typing import Final

# --- tolerances ------------------------------------------------------------------------------------------------------

FLOW_TOLERANCE: Final = 1e-9
"""Relative slack in comparisons of flows: absorbs rounding."""

OPTIMAL_GAP: Final = 1e-4
"""Relative gap between flow and bound at which a placement is reported as optimal."""

# --- column generation (column_generation, master) ------------------------------------------------------------------

COLUMN_ROUNDS: Final = 60
DIVE_ROUNDS: Final = 8
PERTURBED_PRICINGS: Final = 8
PERTURBATION: Final = (0.7, 1.4)
PERTURBED_LOSS_LAYERS: Final = 1.0
MAX_SPREAD: Final = 12
MAX_BRIDGES: Final = 6
SURVIVING_WAYS: Final = (2, 3, 4, 6, 12)
SURVIVING_BOUND_GRIDS: Final = (500, 2000)
BOUND_RANGES: Final = 8
EXTRA_HOPS: Final = (0, 1, 2, 4)
EXTRA_HOPS_CROSSING: Final = (1, 4)
MIP_NODES: Final = 20
HOP_PRICE_LAYERS: Final = 0.01
SHORTFALL_PENALTY_LAYERS: Final = 100.0

# --- pricing (pricing, patterns) -------------------------------------------------------------------------------------

MIN_SEGMENT_SHARE: Final = 0.004
MIN_NODE_PRICE_LAYERS: Final = 1e-7
MAX_SEGMENT_NODES: Final = 2
GRID_CHUNK: Final = 32
MAX_PATTERNS: Final = 60
MAX_PATTERN_STEPS: Final = 1500

# --- regions (regions, clusters) -------------------------------------------------------------------------------------

ENUMERATED_REGIONS: Final = 3
MAX_JOINED_REGIONS: Final = 3
MAX_ORDERED_REGIONS: Final = 4
MAX_JOINED_WORK: Final = 240
MAX_JOINS: Final = 16
JOIN_PRECISION: Final = 5e-3
ROUGH_PRECISION: Final = 1e-3
FINE_PRECISION: Final = 5e-5
GRID: Final = 600
CROSSING_GRID: Final = 300
SEARCH_LAYERS: Final = 12
FINE_LAYERS: Final = 24
FINE_GRID: Final = 1500
MAX_REFINED_NODES: Final = 60
FIRST_STEP: Final = 0.005
SPLIT_RATIO: Final = 3.0

# --- frontier, exchanges and selection (helix, swaps, select) --------------------------------------------------------

MAX_ARCS: Final = 20_000
FRONTIER_STEP: Final = 0.95
FRONTIER_COARSE_NODES: Final = (60, 240)
FRONTIER_END: Final = 0.4
MAX_SWAPS: Final = 1500
RACED_SWAPS: Final = 100
MAX_SWAP_WORK: Final = 600_000
DOUBLE_SWAP_SHARE: Final = 0.3
MIN_ESTIMATE_SHARE: Final = 0.5
FAR_BELOW: Final = -0.25

# --- bound (bounds) and exact program (milp) -------------------------------------------------------------------------

BOUND_GRIDS: Final = (500, 4000, 20_000)
BOUND_ROUNDS: Final = 80
BOUND_PRECISION: Final = 2e-5
PAIR_PENALTY_LAYERS: Final = 100.0
EXACT_MAX_NODES: Final = 10
