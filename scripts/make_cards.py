"""Render the card of every model in zoo/, into its folder as README.md and into model_cards/.

python scripts/make_cards.py
"""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from brickyard.card import CARD, render_card
from brickyard.storage.files import ANYBODY, FolderFiles
from brickyard.storage.manifest import MANIFEST
from brickyard.storage.store import read_bricks

ROOT = Path(__file__).parents[1]


def main() -> None:
    for manifest in tqdm(sorted(ROOT.glob(f"zoo/*/{MANIFEST}")), unit="card", disable=None):
        folder = manifest.parent
        card = render_card(folder.name, *read_bricks(FolderFiles(folder, ANYBODY, folder.name)), source=folder.name)
        (folder / CARD).write_text(card, encoding="utf-8")
        (ROOT / "model_cards" / f"{folder.name}.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
