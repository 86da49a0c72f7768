"""Measure methods on pairs of images. Read in this order:

`pairs.py` and `sets.py` find the images, `methods.py` says what a method is and `specs.py` reads
its name, `metric.py` says what a metric is and `metrics.py` which there are, `run.py` does all of
it resumably, `report.py` prints it. `cost/` measures time.
"""
