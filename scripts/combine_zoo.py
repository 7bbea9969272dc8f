"""Write a model to zoo/ that has the heads of several other zoo models on their common backbone, as references.

    python scripts/combine_zoo.py zoo://tf_efficientnet_lite0_cls.in1k/backbone MODEL [MODEL ...]

No weights are copied: the folder has the bricks' JSON files, and refers to the weights of the others. Run
`scripts/make_cards.py` afterwards.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from add_to_zoo import ZOO

from brickyard import create_model, model_info
from brickyard.parts.backbones import TimmNames
from brickyard.recipe.names import parse_name
from brickyard.tasks.registry import task_variants


def combine(backbone: str, names: list[str]) -> Path:
    """Write the model and return its folder."""
    infos = {name: model_info(name) for name in names}
    sources = {head: f"zoo://{name}/{head}" for name, info in infos.items() for head in info.tasks}
    first, tag = infos[names[0]].backbone, names[0].rpartition(".")[2]
    heads = "".join(name.rpartition(".")[0].removeprefix(first) for name in names)
    stem = parse_name(first + heads, TimmNames(), task_variants()).stem  # with the heads in their order
    model = create_model(stem, bricks={"backbone": backbone, **sources})
    folder = ZOO / f"{stem}.{tag}"
    model.save_pretrained(folder, weights=tag, refer=["backbone", *(f"{head}/head" for head in sources)])
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Combine the heads of zoo models.")
    parser.add_argument("backbone", help="address of the backbone brick")
    parser.add_argument("models", nargs="+", help="names of zoo models with one backbone and heads of different names")
    options = parser.parse_args()
    print(combine(options.backbone, options.models))


if __name__ == "__main__":
    main()
