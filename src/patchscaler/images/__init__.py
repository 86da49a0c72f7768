"""Pictures as they are: files <-> planes in [-1, 1], and everything about them that must not be
lost.
"""
