"""The paper's tables and figures, one command each (docs/reproduction.md). Read in this order:

`paper.py` holds what the paper prints, `report.py` puts ours beside it, `sources.py` finds the
data, `measuring.py` measures rows; `quality.py`, `ablations.py` (with `text_method.py`) and
`speed.py` (with `paper_networks.py` and `two_workers.py`) are the tables, `figures.py` and
`steps_figure.py` the figures, put on a `sheet.py`.
"""
