"""Parts for object detection: heads, losses on padded targets, decoders to a fixed number of boxes, metrics.

Boxes are (x1, y1, x2, y2) in pixels of the model's input image. Sizes: B images, K classes, P anchors (or points), M
target boxes per image after padding, N boxes returned by a decoder.
"""
