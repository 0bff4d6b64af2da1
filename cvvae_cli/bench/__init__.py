"""Datasets → rows of figures → tables, curves, a report. Prints nothing: cli/bench.py does."""
