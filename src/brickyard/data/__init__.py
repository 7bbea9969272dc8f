"""Data sets and batches of what a model reads: pictures with the labels of several tasks."""
