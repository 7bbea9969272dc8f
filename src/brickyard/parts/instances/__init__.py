"""Parts for instance segmentation and instance key points: an FCOS head with a mask and a key point for each object.

Boxes are (x1, y1, x2, y2) in pixels of the model's input image. Sizes: B images of (H, W), K classes, J key points, C
prototypes of (h, w), P points of the feature maps, M target objects per image after padding, N objects returned by the
decoder.
"""
