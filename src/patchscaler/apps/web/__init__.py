"""`patchscaler web`: a page and an API in front of the pipeline (docs/web.md).

page.py (fields and handlers) -> jobs.py (what is done with an image) -> the pipeline. server.py
says where the page listens and who may enter.
"""
