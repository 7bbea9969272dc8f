"""Render the card of every model in zoo/, into its folder as README.md and, with pictures, into model_cards/.

    python scripts/make_cards.py

All of it is read: from the bricks' JSON, from model_cards/measured.json, and from the words below.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from card_pictures import draw_samples
from tqdm import tqdm

from brickyard import model_info
from brickyard.core.names import prefix_of
from brickyard.storage.card import CARD, render_card
from brickyard.storage.fit import BrickInfo
from brickyard.storage.manifest import MANIFEST, Manifest
from brickyard.storage.read import read_bricks
from brickyard.storage.sources.files import DEFAULT_ACCESS, FolderFiles

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"

DIGITS = """Digit scenes: one to five handwritten digits on a crop of a photo, 96 x 96 pixels, made on the fly by
`brickyard.open_data("digits", split)`. The digits are those of the [Optical Recognition of Handwritten
Digits](https://archive.ics.uci.edu/dataset/80) data set (E. Alpaydin and C. Kaynak, CC BY 4.0) in scikit-learn, the
photos scikit-image's. No original of a digit and no photo is in two splits: the test split has new digits on new
photos."""
DIGITS_LIMITS = """A demonstration and a start for training, on made-up pictures: digits of 8 x 8 pixels, enlarged, on
few photos. It was not tried on other handwriting, on printed digits, or on pictures of another size."""
IMAGENET = "ImageNet-1k, by the authors of the weights."
IMAGENET_LIMITS = """The accuracy is not measured here, since ImageNet is not shipped; a test holds that the logits are
those of the plain timm model with the original weights. It knows ImageNet's 1000 classes and shares that data set's
biases."""


def sections(name: str, manifest: Manifest, bricks: Mapping[str, BrickInfo]) -> Iterator[str]:
    """What the card has beyond the bricks: titles with text."""
    is_digits = "digits" in name
    yield f"## Data\n\n{_flowing(DIGITS if is_digits else IMAGENET)}"
    if commands := dict.fromkeys(info.config["source"] for info in bricks.values() if _is_command(info)):
        refer = "".join(f" --refer {path}" for path, entry in manifest.bricks.items() if entry.is_published)
        adding = f"python scripts/add_to_zoo.py runs/digits --name {name}{refer}"
        yield "## How it was made\n\n```bash\n" + "\n".join([*commands, adding]) + "\n```"
    if rows := [
        [f"`{prefix_of(path)}`", metric, f"{value:.4f}"]
        for path, info in bricks.items()
        for metric, value in info.config.get("metrics", {}).items()
    ]:
        measured = next(info.config["measured"] for info in bricks.values() if "measured" in info.config)
        yield f"## Metrics\n\nOn the test split, by `{measured}`.\n\n" + _table(["head", "metric", "value"], rows)
    counts = model_info(name).parameters
    total = ["**all**", f"**{sum(counts.values()):,}**"]
    yield "## Parameters\n\n" + _table(["brick", "count"], [*([f"`{p}`", f"{n:,}"] for p, n in counts.items()), total])
    for table in json.loads((CARDS / "measured.json").read_text(encoding="utf-8")).get(name, []):
        yield f"## {table['title']}\n\n{table['text']}\n\n{_table(table['columns'], table['rows'])}"
    told = "each scene, what is on it, and what the model says" if is_digits else "what the model says of photos"
    yield f"## Pictures\n\nFrom left to right: {told}.\n\n![{told}](pictures/{name}.png)"
    yield f"## Limits\n\n{_flowing(DIGITS_LIMITS if is_digits else IMAGENET_LIMITS)}"


def cards(folder: Path) -> tuple[str, str]:
    """The card that lies with the model, and the one with pictures and all that was measured."""
    manifest, bricks = read_bricks(FolderFiles(folder, DEFAULT_ACCESS, folder.name))
    card = render_card(folder.name, manifest, bricks, source=folder.name)
    return card, "\n\n".join([card.rstrip(), *sections(folder.name, manifest, bricks)]) + "\n"


def zoo() -> list[Path]:
    return [manifest.parent for manifest in sorted(ROOT.glob(f"zoo/*/{MANIFEST}"))]


def main() -> None:
    (CARDS / "pictures").mkdir(exist_ok=True)
    for folder in tqdm(zoo(), unit="card", disable=None):
        short, whole = cards(folder)
        (folder / CARD).write_text(short, encoding="utf-8")
        (CARDS / f"{folder.name}.md").write_text(whole, encoding="utf-8")
        draw_samples(folder.name).save(CARDS / "pictures" / f"{folder.name}.png", optimize=True)


def _is_command(info: BrickInfo) -> bool:
    return str(info.config.get("source", "")).startswith("brickyard train")


def _flowing(text: str) -> str:
    return " ".join(text.split())


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
