"""Measuring: pairs of pictures -> a method's results -> scores -> a report. Read in this order:

`pairs.py` finds the pictures, `methods.py` says what a method is, `metric.py` what a measure is and
`metrics.py` which there are (`fidelity.py`, `learned.py`, `statistics.py`, `pyiqa_metrics.py`),
`run.py` does all of it resumably, `summary.py`, `report.py` and `html_report.py` print it.
`compare.py` is several methods beside each other.
"""
