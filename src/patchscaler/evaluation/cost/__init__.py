"""What enlarging costs: seconds, network evaluations, FLOPs, memory. Read in this order:

`timing.py` takes the time of one function, `flops.py` counts operations, `memory.py` asks processes
for their peak, `measure.py` puts one picture's figures together, `sweeps.py` varies one number at a
time, `benchmark.py` runs them on one of `pictures.py`; `paper_networks.py` and `paper_size.py` make
Table 3's rows; `report.py` prints and saves, `plots.py` draws.
"""
