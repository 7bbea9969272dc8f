"""Which blocks of a vision transformer a head reads, as DINOv2's heads do."""

from __future__ import annotations

from brickyard.core.specs import BackboneSpec
from brickyard.errors import BrickMismatchError
from brickyard.tasks.task import HeadSpec

NO_BLOCKS = "expected a backbone of transformer blocks, such as timm's vit_* models, found one without"
_FOUR = 4
_LARGE = 24  # the blocks of ViT-L, of which DINOv2 took the fifth instead of the sixth as the first


def last_blocks(backbone: BackboneSpec, head: HeadSpec, count: int) -> str:
    """Return the index of the last blocks for the name of an input, `[-4:]`; errors as for `spread_blocks`."""
    _check(backbone, head, count)
    return f"[-{count}:]"


def spread_blocks(backbone: BackboneSpec, head: HeadSpec) -> str:
    """Return the index of four blocks over the whole depth for the name of an input, `[2,5,8,11]` of 12.

    Raises:
        BrickMismatchError: The backbone has no transformer blocks, or too few.
    """
    _check(backbone, head, _FOUR)
    depth = len(backbone.features.channels)
    blocks = [depth * part // _FOUR - 1 for part in range(1, _FOUR + 1)]
    if depth == _LARGE:
        blocks[0] -= 1
    return f"[{','.join(map(str, blocks))}]"


def _check(backbone: BackboneSpec, head: HeadSpec, count: int) -> None:
    depth = len(backbone.features.channels)
    problem = NO_BLOCKS
    if backbone.block_outputs:
        if depth >= count:
            return
        problem = f"expected {count} transformer blocks or more, found {depth}"
    raise BrickMismatchError(f"The head '{head.variant}' of '{head.name}' does not fit the backbone", [problem])
