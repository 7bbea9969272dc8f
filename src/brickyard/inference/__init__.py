"""Trained models on pictures: one, a folder, millions."""
