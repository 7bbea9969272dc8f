"""The card of a saved model: a README.md with the metadata that the Hub reads, from the folder's own facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from brickyard.mermaid import create_mermaid_dag_graph
from brickyard.store import load_pretrained, read_json, read_manifest

_HUB_TASKS = {"cls": "image-classification", "seg": "image-segmentation", "det": "object-detection"}


def render_card(folder: str | Path) -> str:
    """The card of the model that `save_pretrained` wrote to `folder`, as Markdown."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    configs = {path: read_json(folder / f"{entry['at']}.json") for path, entry in manifest.bricks.items()}
    heads = [config for config in configs.values() if "task" in config]
    licences = sorted({config["licence"] for config in configs.values() if "licence" in config})
    sources = sorted({config["source"] for config in configs.values() if "source" in config})
    data = ModelCardData(
        library_name="brickyard",
        license=licences[0] if len(licences) == 1 else "other",
        pipeline_tag=_HUB_TASKS.get(heads[0]["task"]) if len(heads) == 1 else None,
        tags=["brickyard", "timm", *sorted({config["task"] for config in heads})],
    )
    sections = [
        f"---\n{data.to_yaml()}\n---\n\n# {folder.name}",
        *([f"Weights: {'; '.join(sources)}."] if sources else []),
        f'```python\nimport brickyard\n\nmodel = brickyard.create_model("{folder.name}", pretrained=True)\n```',
        _bricks_table(manifest.bricks, configs),
        *(_head_line(config) for config in heads),
        f"```mermaid\n{create_mermaid_dag_graph(load_pretrained(folder))}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _bricks_table(entries: dict[str, dict[str, Any]], configs: dict[str, dict[str, Any]]) -> str:
    lines = ["| brick | part | reads | writes | weights | sha256 | licence |", "|---|---|---|---|---|---|---|"]
    for path, config in configs.items():
        inputs = config["inputs"].values() if isinstance(config["inputs"], dict) else config["inputs"]
        size = f"{entries[path]['size'] / 1e6:.1f} MB" if entries[path]["size"] else ""
        cells = [
            f"`{path}`",
            config["type"],
            ", ".join(f"`{name}`" for name in inputs),
            ", ".join(f"`{name}`" for name in config["outputs"]),
            size,
            (entries[path]["weights"] or "")[:12],
            config.get("licence", ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _head_line(config: dict[str, Any]) -> str:
    labels = config["labels"]
    return f"Task `{config['task']}`: {len(labels)} classes, from {labels[0]!r} to {labels[-1]!r}."
