"""Data sets of labelled images, their transforms, and batches of what a model reads."""
