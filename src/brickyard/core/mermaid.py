"""Draw a collection as a mermaid flowchart (https://mermaid.js.org)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from brickyard.core.brick import Brick, HasBricks

_INDENT = "    "
_STYLES = {
    "arrow": "stroke-width:0px,fill-opacity:0.0",
    "input": "stroke-width:0px,fill-opacity:0.3,fill:#22A699",
    "output": "stroke-width:0px,fill-opacity:0.3,fill:#F2BE22",
}


def create_mermaid_dag_graph(brick_collection: HasBricks, add_legends: bool = True) -> str:
    """Draw a collection as mermaid text: bricks in declared order, an edge per value, a subgraph per nested collection.

    Args:
        brick_collection: The collection.
        add_legends: Add a legend for the colours of inputs and outputs.
    """
    return mermaid_graph(brick_collection.bricks(), add_legends)


def mermaid_graph(bricks: dict[str, Brick], add_legends: bool = True) -> str:
    """Draw bricks by path as mermaid text, see `create_mermaid_dag_graph`."""
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
    written = {name for brick in bricks.values() for name in brick.writes}
    for path, brick in bricks.items():
        for name in _names_read(brick):
            if name not in written:
                yield f"{_value(name, bricks)}:::input --> {path}"


def _edges(bricks: dict[str, Brick]) -> Iterator[tuple[str, str]]:
    """Yield each brick's path with an edge that starts there: first to its readers, then to outputs without readers."""
    read = {name for brick in bricks.values() for name in _names_read(brick)}
    for path, brick in bricks.items():
        for reader, other in bricks.items():
            for name in brick.writes:
                if name in _names_read(other):
                    yield path, f"{path} --> |{name}| {reader}"
        for name in brick.writes:
            if name not in read and name not in brick.on_request:
                yield path, f"{path} --> {_value(name, bricks)}:::output"


def _value(name: str, bricks: dict[str, Brick]) -> str:
    """Return the node of a value: its name, or another id if a brick has that path."""
    return f"{name}.value({name})" if name in bricks else name


def _nested(edges: Iterator[tuple[str, str]]) -> list[str]:
    """Group the edges of nested collections into subgraphs, at the position of their first edge."""
    tree: dict[str, Any] = {}
    for path, edge in edges:
        branch: Any = tree
        *parents, name = path.split("/")
        for parent in parents:
            branch = branch.setdefault(parent, {})
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
