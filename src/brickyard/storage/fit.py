"""Compare what a stored brick requires with what a model provides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, final, get_args

from brickyard.core.brick import Brick, HasBricks
from brickyard.core.modules import BrickModule
from brickyard.core.names import parse_reference
from brickyard.core.specs import BLOCK_OUTPUTS, BackboneSpec
from brickyard.errors import BrickInputError, BrickMismatchError
from brickyard.recipe.inspection import BACKBONE, provided_by
from brickyard.storage.weights import weights_sha256

Check = Literal["exact", "input", "shape"]
CHECKS: tuple[Check, ...] = get_args(Check)  # the strictest first
_STATISTICS = ("channels", "mean", "std")  # of the images that a backbone was trained on


@final
@dataclass(frozen=True)
class BrickInfo:
    """A stored brick as its JSON describes it, without weights.

    Attributes:
        path: The path in its model.
        config: The JSON values.
        sha256: The hash of the JSON file.
        location: The folder or repo that it was read from, for messages.
        uri: Where the brick is published, pinned to a commit; None for one in a folder.
    """

    path: str
    config: Mapping[str, Any]
    sha256: str
    location: str
    uri: str | None

    @property
    def task(self) -> str | None:
        """The task of a head, None for any other brick."""
        return self.config.get("task")

    @property
    def labels(self) -> list[str]:
        """The class names of a head."""
        return list(self.config.get("labels", []))

    @property
    def licence(self) -> str | None:
        """The licence of the weights, if known."""
        return self.config.get("licence")

    @property
    def weights(self) -> Mapping[str, Any] | None:
        """The `sha256` and the `size` in bytes of the weights, None without weights."""
        return self.config.get("weights")

    @property
    def requires(self) -> Mapping[str, Any] | None:
        """What the brick requires of a backbone: channels, strides, embedding, input and sha256; None for nothing."""
        requirements: Mapping[str, Any] | None = (self.config.get("requires") or {}).get(BACKBONE)
        return requirements

    @property
    def provides(self) -> BackboneSpec | None:
        """What a backbone provides to heads, None for any other brick."""
        provides = self.config.get("provides")
        return None if provides is None else BackboneSpec.from_json(provides)

    @property
    def file(self) -> str:
        """The JSON file, for messages."""
        return f"{self.location}/{self.path}.json"


@final
@dataclass(frozen=True)
class Backbone:
    """The backbone that heads are compared with.

    Attributes:
        provides: What it provides to heads, None if unknown.
        sha256: The hash of its weights, None if unknown.
    """

    provides: BackboneSpec | None
    sha256: str | None

    def requirements(self) -> dict[str, Any]:
        """Return the `requires` field of a head that was trained on this backbone."""
        if self.provides is None:
            return {}
        spec = self.provides
        fields = {**asdict(spec.features), "embedding": spec.embedding, "input": asdict(spec.input)}
        return {"requires": {BACKBONE: {**fields, "sha256": self.sha256}}}


def backbone_of(bricks: Mapping[str, Brick]) -> Backbone:
    """Return the backbone of a model, with the hash of its present weights."""
    brick = bricks.get(BACKBONE)
    if brick is None or brick.module is None:
        return Backbone(None, None)
    dtypes = brick.provenance.dtypes if brick.provenance else {}
    return Backbone(brick.provides, weights_sha256(brick.module, dtypes))


def fits(info: BrickInfo, model: HasBricks, check: Check = "exact") -> list[str]:
    """List the reasons why a stored brick does not fit a model.

    Args:
        info: A stored brick, as `inspect_brick` returns it; its weights are not read. A backbone is compared with every
            head of the model.
        model: The model that the brick is for.
        check: "exact": the weights of the backbone are those that the head was trained on. "input": channels and
            strides of the features, and channels, mean and standard deviation of the images are equal. "shape":
            channels and strides of the features are equal, as a start for fine-tuning.

    Returns:
        One sentence per problem; empty if the brick fits.

    Raises:
        BrickInputError: `check` has another value.
    """
    bricks = model.bricks()
    if info.provides is not None:
        backbone = Backbone(info.provides, (info.weights or {}).get("sha256"))
        return [
            f"{path}: {problem}"
            for path, brick in bricks.items()
            if isinstance(brick, BrickModule) and path != BACKBONE
            for problem in _problems_with(backbone, brick, bricks, check)
        ]
    if info.requires is None:
        return problems(info.config, Backbone(None, None), check)
    return problems(info.config, backbone_of(bricks), check)


def problems(config: Mapping[str, Any], backbone: Backbone, check: Check) -> list[str]:
    """List the reasons why a brick with this JSON does not fit a backbone; see `fits`."""
    if check not in CHECKS:
        raise BrickInputError("check", f"one of {list(CHECKS)}", repr(check))
    requirements = (config.get("requires") or {}).get(BACKBONE)
    if requirements is None:
        return []
    if backbone.provides is None:
        return ["expected a backbone that declares what it provides, found none"]
    reasons = _shape_problems(config, requirements, backbone.provides)
    if check == "shape":
        return reasons
    provided = asdict(backbone.provides.input)
    for name in _STATISTICS:
        expected, actual = _as_list(requirements["input"][name]), _as_list(provided[name])
        if expected != actual:
            reasons.append(f"{name} of the images: expected {expected}, found {actual}")
    if check == "exact" and requirements["sha256"] != backbone.sha256:
        expected = f"sha256 {str(requirements['sha256'])[:12]}, on which the head was trained"
        reasons.append(f"weights of the backbone: expected {expected}, found {str(backbone.sha256)[:12]}")
    return reasons


def closest_fit(config: Mapping[str, Any], backbone: Backbone) -> tuple[Check | None, list[str]]:
    """Return the strictest check by which a brick with this JSON fits a backbone; None with the reasons if it does not.

    See `fits` for the checks.
    """
    reasons: list[str] = []
    for check in CHECKS:
        reasons = problems(config, backbone, check)
        if not reasons:
            return check, []
    return None, reasons


def refuse(what: str, reasons: list[str], check: Check) -> None:
    """Raise `BrickMismatchError` if there are reasons, with the weaker checks as a hint."""
    if reasons:
        weaker = CHECKS[CHECKS.index(check) + 1 :]
        ways = " or ".join(f"check={name!r}" for name in weaker)
        hint = f" To use it all the same, for example to fine-tune it, pass {ways}" if weaker else ""
        raise BrickMismatchError(f"{what} does not fit.{hint}", reasons)


def _problems_with(backbone: Backbone, brick: BrickModule, bricks: Mapping[str, Brick], check: Check) -> list[str]:
    """List the reasons why a brick of a model does not fit another backbone."""
    if brick.provenance is not None:
        return problems(brick.provenance.config, backbone, check)
    inputs = [read.name for read in brick.reads]
    of_backbone = {"features", "embedding", *BLOCK_OUTPUTS}
    if brick.module is None or not brick.module.state_dict() or not of_backbone & set(inputs):
        return []
    # It was never stored: only the shapes must stay the same.
    present = Backbone(provided_by(bricks), None)
    return problems({"inputs": inputs, **present.requirements()}, backbone, "shape")


def _shape_problems(config: Mapping[str, Any], requirements: Mapping[str, Any], provides: BackboneSpec) -> list[str]:
    """Compare what the brick reads: the pooled vector, the feature maps, or further values of transformer blocks."""
    inputs = config["inputs"]
    names = list(inputs.values() if isinstance(inputs, dict) else inputs)
    if "embedding" in names:
        expected = requirements.get("embedding")
        if expected in (None, provides.embedding):
            return []
        return [f"length of the embedding: expected {expected}, found {provides.embedding}"]
    provided = asdict(provides.features)
    reasons = [
        f"{name} of the features: expected {list(requirements[name])}, found {list(provided[name])}"
        for name in ("channels", "strides")
        if list(requirements[name]) != list(provided[name])
    ]
    read = {parse_reference(name, "").name for name in names}
    absent = [name for name in BLOCK_OUTPUTS if name in read and name not in provides.block_outputs]
    found = f"found {list(provides.block_outputs)}" if provides.block_outputs else "found none"
    return reasons + [f"outputs of transformer blocks: expected '{name}', {found}" for name in absent]


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
