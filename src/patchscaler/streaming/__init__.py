"""Pictures of any size in memory that does not grow with their area. Read in this order:

`windows.py` cuts a picture so that nobody can tell, `disk.py` keeps what does not fit in memory and
what a killed run had done, `source.py` is the small picture by windows, `passes.py` restores,
samples, draws and decodes, `cost.py` tells beforehand what that takes, `files.py` makes a file of
the result.
"""
