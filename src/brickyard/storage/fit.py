"""Whether a brick fits a model: what heads need of a backbone, against what it provides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

from brickyard.collection import BrickCollection
from brickyard.core.modules import BrickModule
from brickyard.errors import BrickInputError, BrickMismatchError
from brickyard.storage.sources.files import Files
from brickyard.storage.weights import weights_sha256

BACKBONE = "backbone"
CHECKS = ("exact", "input", "shape")
Check = Literal["exact", "input", "shape"]
_STATISTICS = ("channels", "mean", "std")  # of the images that a backbone was trained on


@final
@dataclass(frozen=True)
class BrickInfo:
    """A brick as it is stored: what its JSON says, without its weights.

    Attributes:
        path: Its name in its model.
        config: Its JSON.
        sha256: Of the bytes of that.
        files: Where it was found.
    """

    path: str
    config: Mapping[str, Any]
    sha256: str
    files: Files = field(repr=False, compare=False)

    @property
    def uri(self) -> str | None:
        """Where it is published, pinned to a commit; None for one in a folder."""
        return self.files.uri(self.path)

    @property
    def task(self) -> str | None:
        """Its task, None if it is no head."""
        return self.config.get("task")

    @property
    def labels(self) -> list[str]:
        """A head's class names."""
        return list(self.config.get("labels", []))

    @property
    def licence(self) -> str | None:
        """Its licence, where known."""
        return self.config.get("licence")

    @property
    def weights(self) -> Mapping[str, Any] | None:
        """`sha256` and `size` in bytes of its weights, None if it has none."""
        return self.config.get("weights")

    @property
    def requires(self) -> Mapping[str, Any] | None:
        """What it needs of a backbone: channels, strides, embedding, input and sha256; None if nothing."""
        needs: Mapping[str, Any] | None = (self.config.get("requires") or {}).get(BACKBONE)
        return needs

    @property
    def provides(self) -> Mapping[str, Any] | None:
        """What a backbone gives to heads: features, embedding and input; None for any other brick."""
        return self.config.get("provides")


@final
@dataclass(frozen=True)
class Backbone:
    """What a model has for heads.

    Attributes:
        provides: Features, embedding and input; None where nothing is known of it.
        sha256: Of its weights.
    """

    provides: Mapping[str, Any] | None
    sha256: str | None

    def as_needs(self) -> dict[str, Any]:
        """What a head that is trained on it needs from then on."""
        if self.provides is None:
            return {}
        facts = {**self.provides["features"], "embedding": self.provides["embedding"], "input": self.provides["input"]}
        return {"requires": {BACKBONE: {**facts, "sha256": self.sha256}}}


def backbone_of(model: BrickCollection) -> Backbone:
    """The backbone of a model as it is now."""
    brick = model.bricks().get(BACKBONE)
    if brick is None or brick.module is None:
        return Backbone(None, None)
    dtypes = brick.provenance.dtypes if brick.provenance else {}
    return Backbone(brick.metadata.get("provides"), weights_sha256(brick.module, dtypes))


def fits(info: BrickInfo, model: BrickCollection, check: Check = "exact") -> list[str]:
    """Why a stored brick does not fit a model.

    Args:
        info: As `inspect_brick` returns it; no weights are read. For a backbone, every head of the model is looked at.
        model: Where it is to go.
        check: "exact": the backbone must be the one that the head was trained on, to the byte. "input": the features'
            channels and strides must fit, and the images' channels, mean and standard deviation. "shape": only the
            features, as to start a fine-tune.

    Returns:
        One sentence for each problem; empty if it fits.

    Raises:
        BrickInputError: Another `check`.
    """
    if info.provides is not None:
        provided = Backbone(info.provides, (info.weights or {}).get("sha256"))
        return [
            f"{path}: {problem}"
            for path, brick in model.bricks().items()
            if isinstance(brick, BrickModule) and path != BACKBONE
            for problem in _problems_of(brick, model, provided, check)
        ]
    if info.requires is None:
        return problems(info.config, Backbone(None, None), check)
    return problems(info.config, backbone_of(model), check)


def _problems_of(brick: BrickModule, model: BrickCollection, backbone: Backbone, check: Check) -> list[str]:
    """Why a brick of the model does not fit another backbone; one that was never trained needs only the same shapes."""
    if brick.provenance is not None:
        return problems(brick.provenance.config, backbone, check)
    inputs = [read.name for read in brick.reads]
    if brick.module is None or not brick.module.state_dict() or not {"features", "embedding"} & set(inputs):
        return []
    here = Backbone(model[BACKBONE].metadata.get("provides") if BACKBONE in model else None, None)
    return problems({"inputs": inputs, **here.as_needs()}, backbone, "shape")


def problems(config: Mapping[str, Any], backbone: Backbone, check: Check) -> list[str]:
    """Why a brick with this JSON does not fit a backbone; see `fits`."""
    if check not in CHECKS:
        raise BrickInputError("check", f"one of {list(CHECKS)}", repr(check))
    needs = (config.get("requires") or {}).get(BACKBONE)
    if needs is None:
        return []
    if backbone.provides is None:
        return ["it needs a backbone, and here is none that says what it provides"]
    found = _shape_problems(config, needs, backbone.provides)
    if check == "shape":
        return found
    for name in _STATISTICS:
        wanted, has = _plain(needs["input"][name]), _plain(backbone.provides["input"][name])
        if wanted != has:
            found.append(f"{name} of the images: expected {wanted}, found {has}")
    if check == "exact" and needs["sha256"] != backbone.sha256:
        expected = f"the one with the sha256 {str(needs['sha256'])[:12]}, which it was trained on"
        found.append(f"weights of the backbone: expected {expected}, found {str(backbone.sha256)[:12]}")
    return found


def _shape_problems(config: Mapping[str, Any], needs: Mapping[str, Any], provides: Mapping[str, Any]) -> list[str]:
    """Of what the brick reads: the pooled vector, or else the feature maps."""
    if _reads(config, "embedding"):
        wanted, has = needs.get("embedding"), provides["embedding"]
        return [] if wanted in (None, has) else [f"embedding: expected {wanted} values, found {has}"]
    return [
        f"{name} of the features: expected {list(needs[name])}, found {list(provides['features'][name])}"
        for name in ("channels", "strides")
        if list(needs[name]) != list(provides["features"][name])
    ]


def refuse(what: str, found: list[str], check: Check) -> None:
    """Raise `BrickMismatchError` if there are problems, with what to do about it."""
    if found:
        weaker = CHECKS[CHECKS.index(check) + 1 :]
        ways = " or ".join(f"check={name!r}" for name in weaker)
        hint = f" To take it all the same, as for a fine-tune, pass {ways}" if weaker else ""
        raise BrickMismatchError(f"{what} does not fit.{hint}", found)


def _reads(config: Mapping[str, Any], name: str) -> bool:
    inputs = config["inputs"]
    return name in (inputs.values() if isinstance(inputs, dict) else inputs)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
