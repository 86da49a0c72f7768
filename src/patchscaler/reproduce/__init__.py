"""The paper's tables and figures, one command each (docs/reproduction.md). Read in this order:

`paper.py` holds what the paper prints, `report.py` puts ours beside it, `pictures.py` finds the
data, `chain.py` takes the pipeline apart; `quality.py`, `ablations.py` (with `text_method.py`) and
`speed.py` are the tables, `two_workers.py` the two-device variant of Table 3; `figures.py` and
`steps_figure.py` are the figures, put on a `sheet.py`.
"""
