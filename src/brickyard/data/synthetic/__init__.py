"""Digit scenes, made on the fly."""
