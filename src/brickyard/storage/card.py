"""Render the model card, a README.md with the metadata that the Hub reads, from the configurations of the bricks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from brickyard.core.graph import BrickGraph
from brickyard.core.mermaid import mermaid_graph
from brickyard.core.names import prefix_of
from brickyard.errors import BrickError
from brickyard.storage.fit import BrickInfo
from brickyard.storage.manifest import Manifest
from brickyard.storage.meta import build_on_meta
from brickyard.tasks.registry import TASKS

CARD = "README.md"
_HUB_LICENCES = frozenset(  # the Hub's licence identifiers; any other is given as "other" with its name
    """afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc cc-by-2.0
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0
    cc-by-sa-4.0 cc0-1.0 epl-2.0 eupl-1.1 gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 mit mpl-2.0 ms-pl openrail
    unlicense wtfpl zlib""".split()  # noqa: SIM905
)


def render_card(name: str, manifest: Manifest, bricks: Mapping[str, BrickInfo], source: str) -> str:
    """Render a model card as Markdown.

    Args:
        name: The name of the model, used as heading.
        manifest: The manifest of the model.
        bricks: The bricks of the model by path.
        source: The source that `BrickCollection.from_pretrained` loads it from.
    """
    heads = {path: info for path, info in bricks.items() if info.task is not None}
    sources = sorted({info.config["source"] for info in bricks.values() if "source" in info.config})
    sections = [
        f"---\n{_metadata(bricks, heads).to_yaml()}\n---\n\n# {name}",
        f"A [brickyard](https://pypi.org/project/brickyard) model of {len(bricks)} bricks. Heads: "
        f"{', '.join(f'`{prefix_of(path)}` (task `{info.task}`)' for path, info in heads.items()) or 'none'}."
        + (f" Weights: {'; '.join(sources)}." if sources else ""),
        _loading(source, heads),
        _bricks_table(manifest, bricks),
        *(_head_line(path, info) for path, info in heads.items()),
        _graph(bricks),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(bricks: Mapping[str, BrickInfo], heads: Mapping[str, BrickInfo]) -> ModelCardData:
    licences = sorted({info.licence for info in bricks.values() if info.licence})
    tasks = sorted({str(info.task) for info in heads.values()})
    known = len(licences) == 1 and licences[0] in _HUB_LICENCES
    return ModelCardData(
        library_name="brickyard",
        license=licences[0] if known else "other" if licences else None,
        license_name=None if known or not licences else " and ".join(licences),
        pipeline_tag=TASKS[tasks[0]].hub_task if len(tasks) == 1 and tasks[0] in TASKS else None,
        tags=["brickyard", "timm", *tasks],
    )


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
            info.licence or "",
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
