"""Show bricks as HTML for notebooks: a table and the graph, without scripts and without references to other files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from brickyard.core.brick import Brick
from brickyard.core.modules import BrickModule
from brickyard.core.svg import element, names_read, svg_graph

_HEADER = ("brick", "kind", "module", "inputs", "outputs", "tags", "parameters", "size", "")
_WRAPPED = ("inputs", "outputs", "tags")
_CELL = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"


def to_html(bricks: Mapping[str, Brick]) -> str:
    """Show bricks as a table, with the graph below it.

    The table has a row for each brick: its path, kind, module, inputs, outputs, tags, number of parameters, size of
    parameters and buffers, and whether it is frozen. Every text is escaped.

    Args:
        bricks: The bricks by path.
    """
    count = sum(_parameters(brick) for brick in bricks.values())
    frozen = sum(_state(brick) == "frozen" for brick in bricks.values())
    title = f"BrickCollection: {len(bricks)} bricks ({frozen} frozen), {count:,} parameters"
    rows = [_row("th", _HEADER), *(_row("td", _cells(path, brick)) for path, brick in bricks.items())]
    table = element("table", {"style": "border-collapse:collapse"}, *rows)
    graph = element("details", {"open": ""}, element("summary", {}, "graph"), svg_graph(bricks)) if bricks else ""
    return element("div", {}, element("p", {}, title), table, graph)


def _row(name: str, texts: Iterable[str]) -> str:
    spaces = {column: "normal" if column in _WRAPPED else "nowrap" for column in _HEADER}
    styles = [f"{_CELL};white-space:{space}" for space in spaces.values()]
    cells = zip(styles, texts, strict=True)
    return element("tr", {}, *(element(name, {"style": style}, escape(text)) for style, text in cells))


def _cells(path: str, brick: Brick) -> tuple[str, ...]:
    parameters = _parameters(brick)
    return (
        path,
        type(brick).__name__,
        brick.module_name,
        ", ".join(names_read(brick)),
        ", ".join(brick.writes),
        ", ".join(sorted(brick.tags)),
        f"{parameters:,}" if parameters else "",
        _size(brick),
        _state(brick),
    )


def _parameters(brick: Brick) -> int:
    return sum(parameter.numel() for parameter in brick.parameters())


def _size(brick: Brick) -> str:
    """Return the size of the parameters and buffers of a brick, "" without any."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*brick.parameters(), *brick.buffers()))
    if size >= 1e5:
        return f"{size / 1e6:.1f} MB"
    return f"{size / 1e3:.1f} kB" if size else ""


def _state(brick: Brick) -> str:
    """Return whether the parameters of a brick are trained, "" without any."""
    trained = [parameter.requires_grad for parameter in brick.parameters()]
    if not trained:
        return ""
    if not any(trained) or (isinstance(brick, BrickModule) and not brick.trainable):
        return "frozen"
    return "trainable" if all(trained) else "partly frozen"
