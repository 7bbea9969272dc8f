"""Draw a collection as a mermaid flowchart (https://mermaid.js.org)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from brickyard.collection import BrickCollection
from brickyard.core.brick import Brick

_INDENT = "    "
_STYLES = {
    "arrow": "stroke-width:0px,fill-opacity:0.0",
    "input": "stroke-width:0px,fill-opacity:0.3,fill:#22A699",
    "output": "stroke-width:0px,fill-opacity:0.3,fill:#F2BE22",
}


def create_mermaid_dag_graph(brick_collection: BrickCollection, add_legends: bool = True) -> str:
    """The collection as mermaid text: bricks in declared order, an edge for each value, a subgraph for each place.

    Args:
        brick_collection: What to draw.
        add_legends: Also draw what the colours of inputs and outputs mean.
    """
    bricks = brick_collection.bricks()
    sections = [
        _section("Brick definitions", (_box(path, brick) for path, brick in bricks.items())),
        _section("Draw input and outputs", _input_edges(bricks)),
        _section("Draw nodes and edges", _nested(_edges(bricks))),
        _section("Add styling", _class_definitions(bricks)),
    ]
    if add_legends:
        legend = [f"{_INDENT}{name}({name}):::{name}" for name in ("input", "output")]
        sections.append(_section("Add legends", ["subgraph Legends", *legend, "end"]))
    return f"\n{_INDENT}\n".join(["flowchart LR\n" + sections[0], *sections[1:]])


def _section(comment: str, lines: Iterator[str] | list[str]) -> str:
    return "\n".join(_INDENT + line for line in [f"%% {comment}", *lines])


def _box(path: str, brick: Brick) -> str:
    kind = type(brick).__name__
    return f"{path}(<strong>'{path}': {brick.module_name}</strong><br><i>{kind}</i>):::{kind}"


def _input_edges(bricks: dict[str, Brick]) -> Iterator[str]:
    made = {name for brick in bricks.values() for name in brick.writes}
    for path, brick in bricks.items():
        for name in _names_read(brick):
            if name not in made:
                yield f"{_value(name, bricks)}:::input --> {path}"


def _edges(bricks: dict[str, Brick]) -> Iterator[tuple[str, str]]:
    """Each brick's path with an edge that starts there: first to its readers, then to the outputs nobody reads."""
    read = {name for brick in bricks.values() for name in _names_read(brick)}
    for path, brick in bricks.items():
        for reader, other in bricks.items():
            for name in brick.writes:
                if name in _names_read(other):
                    yield path, f"{path} --> |{name}| {reader}"
        for name in brick.writes:
            if name not in read:
                yield path, f"{path} --> {_value(name, bricks)}:::output"


def _value(name: str, bricks: dict[str, Brick]) -> str:
    """The node of a value: its name, or an id of its own where a brick has that name as path."""
    return f"{name}.value({name})" if name in bricks else name


def _nested(edges: Iterator[tuple[str, str]]) -> list[str]:
    """The edges of each place in a subgraph of its own; a subgraph stands where its first edge was declared."""
    tree: dict[str, Any] = {}
    for path, edge in edges:
        branch: Any = tree
        *prefixes, name = path.split("/")
        for place in prefixes:
            branch = branch.setdefault(place, {})
        branch.setdefault(name, []).append(edge)
    return list(_lines(tree))


def _lines(tree: dict[str, Any]) -> Iterator[str]:
    for name, branch in tree.items():
        if isinstance(branch, list):
            yield from branch
        else:
            yield f"subgraph {name}"
            yield from (_INDENT + line for line in _lines(branch))
            yield "end"


def _class_definitions(bricks: dict[str, Brick]) -> Iterator[str]:
    kinds = {
        type(brick).__name__: ",".join(f"{key}:{value}" for key, value in brick.style.items())
        for brick in bricks.values()
    }
    for name, style in {**_STYLES, **kinds}.items():
        yield f"classDef {name} {style} "


def _names_read(brick: Brick) -> list[str]:
    return list(dict.fromkeys(read.name for read in brick.reads))
