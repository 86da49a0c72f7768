"""Dials that follow from the method: `budget.py` (how much work), `fidelity.py` (how much
invention), `invention.py` and `report.py` (what was invented, and how), `redo.py` (one region
again).
"""
