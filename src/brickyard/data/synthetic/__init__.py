"""Synthetic data sets of handwritten digits, which are generated on the fly."""
