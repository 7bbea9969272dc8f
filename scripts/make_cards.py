"""Render the card of every model in zoo/, into its folder as README.md and into model_cards/.

python scripts/make_cards.py
"""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from brickyard.card import render_card
from brickyard.store import MANIFEST

ROOT = Path(__file__).parents[1]


def main() -> None:
    for manifest in tqdm(sorted(ROOT.glob(f"zoo/*/{MANIFEST}")), unit="card", disable=None):
        folder = manifest.parent
        card = render_card(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        (ROOT / "model_cards" / f"{folder.name}.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
