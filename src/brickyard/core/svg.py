"""Draw bricks as a graph in SVG: a band for each prefix, and in it columns in the order of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, final

from brickyard.core.brick import Brick
from brickyard.core.names import prefix_of
from brickyard.core.plan import make_plan

_WIDTH, _HEIGHT = 168, 40  # pixels of a box
_STEP_X, _STEP_Y, _MARGIN = 208, 52, 12  # pixels from box to box, and around the drawing
_TITLE = 24  # pixels of the title of a band
_MOST_CHARACTERS = 24  # of a text in a box; its tooltip has all of it
_INK = "currentColor"  # of the page, light or dark


def element(name: str, attributes: Mapping[str, object], *content: str) -> str:
    """Return an element of HTML or SVG.

    Args:
        name: The name of the element.
        attributes: The values are escaped.
        content: Elements, or texts that are escaped already.
    """
    values = "".join(f' {key}="{escape(f"{value}")}"' for key, value in attributes.items())
    return f"<{name}{values}>{''.join(content)}</{name}>"


@final
@dataclass(frozen=True)
class _Box:
    """A brick, or a value that no brick writes.

    Attributes:
        title: The first line.
        subtitle: The second line, "" without one.
        fill: The colour, "none" for a value.
        x: Pixels of the left side.
        y: Pixels of the upper side.
    """

    title: str
    subtitle: str
    fill: str
    x: int
    y: int

    def svg(self) -> str:
        is_value = self.fill == "none"
        outline = {"rx": 20, "stroke": _INK, "stroke-opacity": 0.6} if is_value else {"rx": 5}
        place = {"x": self.x, "y": self.y, "width": _WIDTH, "height": _HEIGHT}
        lines = [line for line in (self.title, self.subtitle) if line]
        first = self.y + _HEIGHT // 2 + 4 - 8 * (len(lines) - 1)
        ink = {"x": self.x + _WIDTH // 2, "fill": _INK if is_value else "white"}
        texts = [
            element("text", {**ink, "y": first + 15 * index}, escape(_shortened(line)))
            for index, line in enumerate(lines)
        ]
        title = element("title", {}, escape(": ".join(lines)))
        return element("g", {}, title, element("rect", {**place, "fill": self.fill, **outline}), *texts)


def svg_graph(bricks: Mapping[str, Brick], *, styled: bool = True) -> str:
    """Draw bricks, the values that no brick writes, and a line from each to its readers.

    Args:
        bricks: The bricks by path, one or more.
        styled: Whether a `style` attribute fits the drawing to the width of the page. A strict Content-Security-Policy
            refuses such attributes: pass False, and let the style sheet of the page do it.

    Returns:
        An `<svg>` element without scripts, and without references to other files. Tooltips have the names of values.
    """
    writers = {name: path for path, brick in bricks.items() for name in brick.writes}
    inputs = _inputs(bricks, writers)
    columns = {**dict.fromkeys(inputs, 0), **_columns(bricks, writers)}
    bands: dict[str, dict[int, list[str]]] = {"": {}}
    for key, column in columns.items():
        bands.setdefault(prefix_of(inputs.get(key, key)), {}).setdefault(column, []).append(key)
    boxes: dict[str, _Box] = {}
    titles, top = [], _MARGIN
    for prefix, by_column in bands.items():
        if prefix:
            place = {"x": _MARGIN, "y": top + _TITLE - 8, "text-anchor": "start", "fill": _INK, "font-weight": "bold"}
            titles.append(element("text", place, escape(prefix)))
            top += _TITLE
        for column, keys in by_column.items():
            for row, key in enumerate(keys):
                boxes[key] = _box(key, bricks, _MARGIN + column * _STEP_X, top + row * _STEP_Y)
        top += max(map(len, by_column.values()), default=0) * _STEP_Y
    lines = [_line(boxes[source], boxes[path], names) for path, source, names in _edges(bricks, writers)]
    width = max(box.x for box in boxes.values()) + _WIDTH + _MARGIN
    frame = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": f"0 0 {width} {top}",
        "width": width,
        "text-anchor": "middle",
        "font-family": "sans-serif",
        "font-size": 12,
        **({"style": "max-width:100%;height:auto"} if styled else {}),
    }
    return element("svg", frame, *lines, *titles, *(box.svg() for box in boxes.values()))


def names_read(brick: Brick) -> list[str]:
    """List the values that a brick reads, each once."""
    return list(dict.fromkeys(read.name for read in brick.reads))


def _inputs(bricks: Mapping[str, Brick], writers: Mapping[str, str]) -> dict[str, str]:
    """Return the first reader of each value that no brick writes, by the key of its box."""
    inputs: dict[str, str] = {}
    for path, brick in bricks.items():
        for name in names_read(brick):
            if name not in writers:
                inputs.setdefault(_key(name), path)
    return inputs


def _key(name: str) -> str:
    """Return the key of the box of a value, which is not the path of a brick."""
    return f"./{name}"


def _columns(bricks: Mapping[str, Brick], writers: Mapping[str, str]) -> dict[str, int]:
    """Return the column of each brick: one more than that of the last brick before it."""
    columns: dict[str, int] = {}
    for step in make_plan(bricks).steps:
        before = [writers[name] for name in names_read(bricks[step.path]) if name in writers]
        columns[step.path] = 1 + max((columns[path] for path in before), default=0)
    return {path: columns[path] for path in bricks}


def _edges(bricks: Mapping[str, Brick], writers: Mapping[str, str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each brick, each box that it reads from, and the names of these values."""
    for path, brick in bricks.items():
        sources: dict[str, list[str]] = {}
        for name in names_read(brick):
            sources.setdefault(writers.get(name, _key(name)), []).append(name)
        for source, names in sources.items():
            yield path, source, names


def _box(key: str, bricks: Mapping[str, Brick], x: int, y: int) -> _Box:
    if key not in bricks:
        return _Box(key.removeprefix(_key("")), "", "none", x, y)
    return _Box(key, bricks[key].module_name, bricks[key].style.get("fill", "gray"), x, y)


def _line(start: _Box, end: _Box, names: list[str]) -> str:
    x, y, to_x, to_y = start.x + _WIDTH, start.y + _HEIGHT // 2, end.x, end.y + _HEIGHT // 2
    curve: dict[str, Any] = {
        "d": f"M{x},{y} C{x + _STEP_X - _WIDTH},{y} {to_x - _STEP_X + _WIDTH},{to_y} {to_x},{to_y}",
        "fill": "none",
        "stroke": _INK,
        "stroke-opacity": 0.4,
        "stroke-width": 1.5,
    }
    return element("g", {}, element("title", {}, escape(", ".join(names))), element("path", curve))


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
