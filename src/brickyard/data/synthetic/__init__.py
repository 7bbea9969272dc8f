"""Digit scenes, a synthetic data set that is generated on the fly."""
