"""Licences of parts: which of several is the strictest, and which a user allows."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from brickyard.core.brick import Brick
from brickyard.errors import BrickInputError, BrickMismatchError

# The Hub's identifiers (https://huggingface.co/docs/hub/repositories-licenses), from the most permissive to the
# strictest: each group asks more of the users of the weights than the one before, and so does each name in it.
_GROUPS = (
    "pddl cc0-1.0 unlicense wtfpl",  # no conditions
    "zlib bsl-1.0 isc mit postgresql ncsa bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear lppl-1.3c",  # a notice
    "etalab-2.0 cdla-permissive-1.0 cdla-permissive-2.0 odc-by cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0",
    "artistic-2.0 afl-3.0 ecl-2.0 apache-2.0",  # a notice of changes, and of patents
    "ms-pl ofl-1.1 c-uda cdla-sharing-1.0 epl-1.0 epl-2.0 mpl-2.0 lgpl-lr lgpl lgpl-2.1 lgpl-3.0",  # the same files
    "odbl gfdl cc-by-sa-3.0 cc-by-sa-4.0 eupl-1.1 eupl-1.2 osl-3.0 gpl gpl-2.0 gpl-3.0 agpl-3.0",  # what is made of it
    "openrail openrail++ creativeml-openrail-m bigscience-openrail-m bigcode-openrail-m bigscience-bloom-rail-1.0",
    "llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma",  # limits of use
    "cc-by-nd-4.0",  # no derivatives
    "apple-amlr cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0",  # no commerce
    "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 deepfloyd-if-license",
)
_RANKS = {name: rank for rank, name in enumerate(name for group in _GROUPS for name in group.split())}


def licences_of(bricks: Mapping[str, Brick]) -> dict[str, str | None]:
    """Return the licence of each brick with weights by path, None for one that states none."""
    return {
        path: brick.metadata.get("licence")
        for path, brick in bricks.items()
        if brick.module is not None and brick.module.state_dict()
    }


def strictest(licences: Iterable[str]) -> str:
    """Return the strictest of some licences; one that the Hub does not know may ask for anything, and so is stricter.

    Args:
        licences: One or more licences, as the Hub spells them.
    """
    return max(sorted(licences), key=lambda name: _RANKS.get(name, len(_RANKS)))


def hub_licence(licences: Collection[str | None]) -> dict[str, str]:
    """Return the fields of a model card for the licence of a repo with parts of these licences.

    Args:
        licences: The licence of each part, None for one that states none: nothing permits the use of that part, so the
            repo gets no licence.
    """
    stated = [licence for licence in licences if licence is not None]
    if not stated or len(stated) < len(licences):
        return {}
    licence = strictest(stated)
    if licence in _RANKS:
        return {"license": licence}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.-]+", "-", licence.lower()).strip("-") or "other"}


def refuse_licences(licences: Mapping[str, str | None], allowed: Iterable[str]) -> None:
    """Refuse parts of other licences than the allowed ones, or without any.

    Args:
        licences: The licence of each part with weights by path, None for one that states none.
        allowed: The allowed licences, as the Hub spells them.

    Raises:
        BrickMismatchError: There is such a part.
        BrickInputError: `allowed` is a text instead of a list of texts.
    """
    if isinstance(allowed, str):
        raise BrickInputError("allow_licences", "a list of licences", repr(allowed), f"Pass [{allowed!r}].")
    names = sorted(set(allowed))
    refused = {path: licence for path, licence in licences.items() if licence not in names}
    if refused:
        hint = "State the licence of weights of your own with model['seg/head'].metadata['licence'] = 'apache-2.0'"
        raise BrickMismatchError(
            f"The model is not pushed: the allowed licences are {names}. {hint}",
            [f"'{path}': {licence or 'no licence is stated'}" for path, licence in refused.items()],
        )
