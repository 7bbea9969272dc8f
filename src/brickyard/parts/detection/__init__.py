"""Parts of object detection: heads, losses on padded targets, decoders to a fixed number of boxes, metrics.

Boxes are (x1, y1, x2, y2) in pixels of the model's image. Sizes: B pictures, K classes, P anchors (or points), M
labelled boxes a picture after padding, N boxes that a decoder returns.
"""
