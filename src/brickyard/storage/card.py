"""Render the model card, a README.md with the metadata that the Hub reads, from the configurations of the bricks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brickyard.core.graph import BrickGraph
from brickyard.core.mermaid import mermaid_graph
from brickyard.core.names import prefix_of
from brickyard.errors import BrickError
from brickyard.recipe.inspection import BACKBONE
from brickyard.storage.atomic import write_whole
from brickyard.storage.card_metadata import card_metadata
from brickyard.storage.fit import BrickInfo
from brickyard.storage.manifest import Manifest
from brickyard.storage.meta import build_on_meta
from brickyard.storage.read import read_bricks
from brickyard.storage.sources.files import DEFAULT_ACCESS, FolderFiles

CARD = "README.md"


def write_card(folder: Path) -> None:
    """Write the model card of a stored model into its folder, in place of an earlier one."""
    manifest, stored = read_bricks(FolderFiles(folder, DEFAULT_ACCESS))
    bricks = {path: brick.info for path, brick in stored.items()}
    write_whole(folder / CARD, render_card(manifest.collection or folder.name, manifest, bricks, f"{folder}"))


def render_card(
    name: str, manifest: Manifest, bricks: Mapping[str, BrickInfo], source: str, backbone: BrickInfo | None = None
) -> str:
    """Render a model card as Markdown.

    Args:
        name: The name of the model, used as heading.
        manifest: The manifest of the model.
        bricks: The bricks of the model by path.
        source: The source that `BrickCollection.from_pretrained` loads it from.
        backbone: The backbone that the heads were trained on, if it is not one of the bricks.
    """
    heads = {path: info for path, info in bricks.items() if info.task is not None}
    sources = sorted({_source(info.config) for info in bricks.values() if "source" in info.config})
    metadata = card_metadata(name, manifest, bricks, bricks.get(BACKBONE, backbone))
    sections = [
        f"---\n{metadata.to_yaml()}\n---\n\n# {name}",
        f"A [brickyard](https://pypi.org/project/brickyard) model of {len(bricks)} bricks. Heads: "
        f"{', '.join(f'`{prefix_of(path)}` (task `{info.task}`)' for path, info in heads.items()) or 'none'}."
        + (f" Weights: {'; '.join(sources)}." if sources else ""),
        _loading(source, heads),
        _bricks_table(manifest, bricks),
        *(_head_line(path, info) for path, info in heads.items()),
        _graph(bricks),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _source(config: Mapping[str, Any]) -> str:
    """Return the source of a brick's weights, with the hash of the file that they were in, if it is known."""
    sha256 = config.get("source_sha256")
    return f"{config['source']} (sha256 `{sha256}`)" if isinstance(sha256, str) else str(config["source"])


def _loading(source: str, heads: Mapping[str, BrickInfo]) -> str:
    lines = ["import brickyard", "", f'model = brickyard.BrickCollection.from_pretrained("{source}")']
    if "://" in source:
        lines += [f'other.swap("{prefix_of(path)}", "{source}/{prefix_of(path)}")' for path in heads]
    return "\n".join(["```python", *lines, "```"])


def _bricks_table(manifest: Manifest, bricks: Mapping[str, BrickInfo]) -> str:
    lines = ["| brick | part | reads | writes | weights | sha256 | requires | licence |", f"|{'---|' * 8}"]
    for path, info in bricks.items():
        entry = manifest.bricks[path]
        inputs = info.config["inputs"]
        cells = [
            f"`{path}`" + (f", from `{entry.at}`" if entry.is_published else ""),
            info.config["type"],
            ", ".join(f"`{name}`" for name in (inputs.values() if isinstance(inputs, dict) else inputs)),
            ", ".join(f"`{name}`" for name in info.config["outputs"]),
            f"{entry.size / 1e6:.2f} MB" if entry.size else "",
            (entry.weights or "")[:12],
            _requirements(info.requires),
            info.licence or ("none stated" if entry.weights else ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _requirements(requires: Mapping[str, Any] | None) -> str:
    if requires is None:
        return ""
    return f"channels {list(requires['channels'])}, strides {list(requires['strides'])}, {str(requires['sha256'])[:12]}"


def _head_line(path: str, info: BrickInfo) -> str:
    line = f"`{prefix_of(path)}`: task `{info.task}`, head `{info.config['variant']}`, {len(info.labels)} classes"
    points = info.config.get("keypoints", {}).get("names", [])
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in info.config.get("metrics", {}).items())
    line += f" ({info.labels[0]!r} to {info.labels[-1]!r})" + (f", key points: {', '.join(points)}" if points else "")
    return f"{line}." + (f" Metrics: {metrics}." if metrics else "")


def _graph(bricks: Mapping[str, BrickInfo]) -> str:
    """Render the mermaid graph; empty if a part is not registered or the bricks do not form a valid collection."""
    try:
        return f"```mermaid\n{mermaid_graph(BrickGraph(build_on_meta(bricks)).bricks)}\n```"
    except BrickError:
        return ""
