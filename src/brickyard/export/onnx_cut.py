"""Cut an ONNX graph at named values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def cut(model: Any, inputs: Sequence[str], outputs: Sequence[str], metadata: Mapping[str, str], file: Path) -> None:
    """Write the part of a graph between some of its values to a file.

    Args:
        model: An `onnx.ModelProto`, with its weights inside.
        inputs: The values that the part may read: inputs and outputs of the graph. Those that it needs become its
            inputs.
        outputs: The outputs of the graph that the part has.
        metadata: The `metadata_props` of the file.
        file: The file.
    """
    import onnx  # noqa: PLC0415 - installed with onnxscript

    graph = model.graph
    nodes, read = _nodes_before(graph, set(inputs) - set(outputs), outputs)
    declared = {value.name: value for value in (*graph.input, *graph.output)}
    known = {name for node in nodes for name in node.output}
    part = onnx.helper.make_graph(
        nodes,
        graph.name,
        [declared[name] for name in inputs if name in read],
        [declared[name] for name in outputs],
        [tensor for tensor in graph.initializer if tensor.name in read],
        value_info=[value for value in graph.value_info if value.name in known],
    )
    written = onnx.helper.make_model(
        part,
        functions=model.functions,
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
    )
    onnx.helper.set_model_props(written, dict(metadata))
    onnx.save(written, file)


def _nodes_before(graph: Any, stops: set[str], outputs: Sequence[str]) -> tuple[list[Any], set[str]]:
    """Return the nodes that outputs depend on, in order, and the names of all values that these read.

    Args:
        graph: An `onnx.GraphProto`.
        stops: Values that are given, so that the nodes before them are left out.
        outputs: The values to compute.
    """
    writers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    waiting, read, needed = list(outputs), set(outputs), set()
    while waiting:
        name = waiting.pop()
        if name in stops or name not in writers or writers[name] in needed:
            continue
        needed.add(writers[name])
        names = set(_names_read(graph.node[writers[name]]))
        read |= names
        waiting += names
    return [graph.node[index] for index in sorted(needed)], read


def _names_read(node: Any) -> Iterator[str]:
    """Yield the inputs of a node, and the outer values that graphs inside it, such as a loop's, may read."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _names_read(inner)
            yield from (value.name for value in graph.output)
