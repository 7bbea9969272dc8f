"""Functions that draw outputs on images."""
