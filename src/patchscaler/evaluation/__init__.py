"""Measuring: pairs of pictures -> a method's results -> scores -> a report. Read in this order:

`pairs.py` finds the pictures, `methods.py` says what a method is, `metrics.py` scores one picture,
`run.py` does all of it resumably, `report.py` prints it. `specs.py` reads methods from text, `peers/` holds other
people's, `compare.py` puts several side by side.
"""
