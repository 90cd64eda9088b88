"""What a run leaves for people: tables in the terminal, figures and one HTML page, drawn from ``results.RunSet``.

rows             the rows of the comparison, shared by terminal and HTML
tables           plain or coloured text for the terminal
style            figures as files, colours, fonts and stable bytes of all figures
figures          throughput and latency, and the list of all figures
time_figures     utilisation, KV memory and queues over time
cluster_figures  placement diagrams and load on links
whatif_rows      what-if variants against the base
html             report.html
pages            a question, its answer, tables and figures, as HTML and Markdown
sweep_files, sweep_figures   tables and figures over all points of a sweep
capacity_files, fleet_files  what the searches for capacities and fleets leave
"""
