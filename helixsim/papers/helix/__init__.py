"""The paper's evaluation, and what was measured elsewhere, beside what helixsim says.

names, entries  the figures: one declarative file each in ``experiments/paper/figures``
published       the values of the paper, and causes of what differs
tasks           what figures need computed, in parallel, kept by content
samples         what is kept of one simulated run
parts           what every kind of part of a figure is
comparison      kind: methods in the columns published, as published and fair
verdicts        which cells, orders and claims hold
build           from entries to page, drawings, data and summary
report_text     the summary for a terminal
cells           measured cells of a real system, with the experiment files that replay them
fidelity        simulates the cells and holds the results against the measurements
engine_fit      finds the overheads of an engine from the cells, and how well they carry over to cells left out
tables          the tables of fidelity
"""
