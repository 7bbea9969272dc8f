"""Render the model card of every model in zoo/: a README.md in its folder, and a longer card in model_cards/.

    python scripts/make_cards.py

The long card adds data, training command, metrics, measurements, sample predictions and limitations. Values come from
the bricks' JSON files and model_cards/measured.json; the text on data and limitations is below.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from card_images import combined_from, draw_samples
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
photos are scikit-image's. The splits share no digit and no photo."""
OTHER_DATA = {
    "digits-single": "`digits-single`: one digit on a crop of a photo, with its class, its four corners as key points, "
    "and the digit as identity.",
    "digits-text": "`digits-text`: a line of one to six digits on a crop of a photo.",
    "digits-anomaly": "`digits-anomaly`: digits on paper; half of the images of the validation and the test split have "
    "a foreign object, a piece of a photo.",
}
DIGITS_LIMITS = """A demonstration model and a starting point for fine-tuning, trained on synthetic images: 8 x 8 pixel
digits, enlarged, on a small number of photos. It was not evaluated on other handwriting, on printed digits, or on other
image sizes."""
IMAGENET = "ImageNet-1k; trained by the authors of the weights."
IMAGENET_LIMITS = """The accuracy was not measured, because ImageNet is not distributed with the package; a test checks
that the logits equal those of the timm model with the original weights. It predicts ImageNet's 1000 classes and has the
biases of that data set."""


def sections(name: str, manifest: Manifest, bricks: Mapping[str, BrickInfo]) -> Iterator[str]:
    """Yield the Markdown sections that only the long card has."""
    is_digits = "digits" in name
    measured = dict.fromkeys(info.config["measured"] for info in bricks.values() if "measured" in info.config)
    others = [text for data, text in OTHER_DATA.items() if any(command.endswith(f" {data}") for command in measured)]
    yield f"## Data\n\n{_reflow(' '.join([DIGITS if is_digits else IMAGENET, *others]))}"
    if commands := dict.fromkeys(info.config["source"] for info in bricks.values() if _is_command(info)):
        published = {path: entry.at for path, entry in manifest.bricks.items() if entry.is_published}
        if components := combined_from(name):
            command = f"python scripts/combine_zoo.py {published['backbone']} {' '.join(components)}"
        else:
            refer = "".join(f" --refer {path}" for path in published)
            command = f"python scripts/add_to_zoo.py runs/digits --name {name}{refer}"
        yield "## Training\n\n```bash\n" + "\n".join([*commands, command]) + "\n```"
    if rows := [
        [f"`{prefix_of(path)}`", metric, f"{value:.4f}"]
        for path, info in bricks.items()
        for metric, value in info.config.get("metrics", {}).items()
    ]:
        commands = ", ".join(f"`{command}`" for command in measured)
        yield f"## Metrics\n\nMeasured on the test split with {commands}.\n\n" + _table(
            ["head", "metric", "value"], rows
        )
    counts = model_info(name).parameters
    total = ["**all**", f"**{sum(counts.values()):,}**"]
    yield "## Parameters\n\n" + _table(["brick", "count"], [*([f"`{p}`", f"{n:,}"] for p, n in counts.items()), total])
    for table in json.loads((CARDS / "measured.json").read_text(encoding="utf-8")).get(name, []):
        yield f"## {table['title']}\n\n{table['text']}\n\n{_table(table['columns'], table['rows'])}"
    caption = "Input image, labels and predictions, from left to right" if is_digits else "Predictions on sample photos"
    yield f"## Sample predictions\n\n{caption}.\n\n![{caption}](images/{name}.png)"
    yield f"## Limitations\n\n{_reflow(DIGITS_LIMITS if is_digits else IMAGENET_LIMITS)}"


def cards(folder: Path) -> tuple[str, str]:
    """Return the card for the model's folder, and the long card for model_cards/."""
    manifest, stored = read_bricks(FolderFiles(folder, DEFAULT_ACCESS, folder.name))
    bricks = {path: brick.info for path, brick in stored.items()}
    card = render_card(folder.name, manifest, bricks, source=folder.name)
    return card, "\n\n".join([card.rstrip(), *sections(folder.name, manifest, bricks)]) + "\n"


def zoo() -> list[Path]:
    """List the folders of the models in zoo/."""
    return [manifest.parent for manifest in sorted(ROOT.glob(f"zoo/*/{MANIFEST}"))]


def main() -> None:
    (CARDS / "images").mkdir(exist_ok=True)
    for folder in tqdm(zoo(), unit="card", disable=None):
        short, long = cards(folder)
        (folder / CARD).write_text(short, encoding="utf-8")
        (CARDS / f"{folder.name}.md").write_text(long, encoding="utf-8")
        draw_samples(folder.name).save(CARDS / "images" / f"{folder.name}.png", optimize=True)


def _is_command(info: BrickInfo) -> bool:
    return str(info.config.get("source", "")).startswith("brickyard train")


def _reflow(text: str) -> str:
    return " ".join(text.split())


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
