"""Visualizations: draw the outputs of heads on images with Pillow."""
