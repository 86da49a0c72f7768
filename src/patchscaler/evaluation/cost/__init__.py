"""What upscaling costs. Read in this order:

`timing.py` takes the time of functions in turn, `x4plus.py` is Real-ESRGAN x4plus through every
runtime, `benchmark.py` sets ours beside it; `flops.py` counts operations.
"""
