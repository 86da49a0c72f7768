"""Videos through PyAV (extra `video`). Read in this order:

`clip.py` looks through a file before any work, `frames.py` turns its frames into pictures and
pictures into frames, `encoding.py` chooses an encoder and makes segments, `muxing.py` puts them
into one file with all that goes beside the pictures, `job.py` is the whole: frame by frame through
the pipeline, resumed where it was killed.
"""
