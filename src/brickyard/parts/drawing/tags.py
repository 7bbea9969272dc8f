"""Short texts next to objects in an image, which cover neither an object nor each other."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


def free_spot(box: Box, size: tuple[float, float], taken: Sequence[Box], width: float) -> Box | None:
    """Return a free rectangle next to an object, None if there is none.

    Args:
        box: The object.
        size: (width, height) of the rectangle.
        taken: The rectangles that must not be covered, the object included.
        width: The width of the image. Nothing is placed below the lowest of `taken`, where legends are.
    """
    (left, top, right, bottom), (w, h) = box, size
    lowest = max((other[3] for other in taken), default=bottom)
    corners = [
        (left, top - h),
        (right - w, top - h),
        (right, top),
        (left - w, top),
        (right, bottom - h),
        (left - w, bottom - h),
        (left, bottom),
        (right - w, bottom),
    ]
    for x, y in corners:
        spot = (x, y, x + w, y + h)
        is_inside = x >= 0 and y >= 0 and spot[2] <= width and spot[3] <= lowest
        if is_inside and not any(_overlap(spot, other) for other in taken):
            return spot
    return None


def _overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
