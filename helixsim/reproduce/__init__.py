"""What was measured elsewhere, beside what helixsim says.

cells       measured cells of a real system, with the experiment files that replay them
fidelity    simulates the cells and holds the results against the measurements
engine_fit  finds the overheads of an engine from the cells, and how well they carry over to cells left out
"""
