"""Training with Lightning, and evaluation."""
