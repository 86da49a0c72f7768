"""`patchscaler web`: a page and an API in front of the pipeline (docs/web.md). Read `page.py`
first.

page.py (what is seen) and api.py (what programs call) -> service.py (jobs, one after the other) ->
the pipeline. limits.py says how much a visitor may ask for, guard.py keeps out what is no picture,
folder.py clears up.
"""
