"""Tables, figures and HTML pages of results.

rows             the rows of the comparison, shared by terminal and HTML
leg_rows         pools that prefill and decode, and transfers between them
tier_rows        KV blocks in host memory and on disks
tables           text for the terminal
style            colours, fonts and reproducible files of all figures
figures          throughput and latency, and the list of all figures of a run
time_figures     utilisation, KV memory and queues over time
cluster_figures  placement diagrams and load on links
whatif_rows      what-if variants against the base
html             report.html of a run
pages            pages of question, answer, tables and figures, as HTML and Markdown
sweep_files, sweep_figures   tables and figures of a sweep
capacity_files, fleet_files  files of the searches for capacities and fleets
"""
