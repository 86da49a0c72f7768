"""The paper's tables and figures, one command each (docs/reproduction.md). Read in this order:

`paper.py` holds what the paper prints, `report.py` puts ours beside it, `pictures.py` finds the data,
`chain.py` takes the pipeline apart; `quality.py` and `ablations.py` are the tables, `figures.py` the figures,
`two_workers.py` the two-device variant of Table 3.
"""
