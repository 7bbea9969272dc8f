"""Frozen descriptions: what a backbone takes and provides, and what a head predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, final, get_args

from brickyard.errors import BrickInputError

ResizeMode = Literal["squash", "letterbox"]
RESIZE_MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)
Strength = Literal["light", "strong"]  # of random changes of training images
STRENGTHS: tuple[Strength, ...] = get_args(Strength)
Augmentation = Literal["none", Strength]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)

# What a backbone of transformer blocks can provide for each block, besides the feature map; see `BackboneSpec`.
NORMED_FEATURES = "normed_features"
CLASS_TOKENS = "class_tokens"
NORMED_CLASS_TOKENS = "normed_class_tokens"
BLOCK_OUTPUTS = (NORMED_FEATURES, CLASS_TOKENS, NORMED_CLASS_TOKENS)


@final
@dataclass(frozen=True)
class FeatureSpec:
    """The feature maps of a backbone, fine to coarse: map i is (B, channels[i], H / strides[i], W / strides[i])."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


@final
@dataclass(frozen=True)
class InputSpec:
    """The images that a backbone was trained on.

    Attributes:
        channels: Number of channels C.
        size: (H, W) in pixels.
        fixed: Whether timm declares `size` as the only valid one; some of these models accept others all the same.
        mean: One value per channel, for images in [0, 1].
        std: One value per channel, for images in [0, 1].
        interpolation: How images are resized, "bicubic" or "bilinear".
        crop_pct: The fraction of the resized image that the central crop keeps, in (0, 1].
        crop_mode: timm's name of the crop, "center", "squash" or "border"; or "letterbox", which scales the whole image
            to fit and pads it with grey.
    """

    channels: int
    size: tuple[int, int]
    fixed: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    crop_mode: str = "center"

    @property
    def resize_mode(self) -> ResizeMode:
        """How whole images are resized to `size`, for training and for dense tasks."""
        return "letterbox" if self.crop_mode == "letterbox" else "squash"

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote; JSON arrays become tuples."""
        return cls(
            channels=values["channels"],
            size=tuple(values["size"]),
            fixed=values["fixed"],
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            interpolation=values["interpolation"],
            crop_pct=values["crop_pct"],
            crop_mode=values["crop_mode"],
        )


@final
@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone provides to heads.

    Attributes:
        features: The feature maps.
        embedding: The length of the pooled vector.
        input: The images that it takes.
        num_classes: The number of classes of timm's own classifier, 0 if it has none.
        block_outputs: Of a backbone whose feature maps are those of transformer blocks, the further values that it can
            provide for each block: "normed_features", the map after the backbone's final norm, and with a class token
            "class_tokens" and "normed_class_tokens", (B, C).
    """

    features: FeatureSpec
    embedding: int
    input: InputSpec
    num_classes: int = 0
    block_outputs: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        features = values["features"]
        return cls(
            features=FeatureSpec(tuple(features["channels"]), tuple(features["strides"])),
            embedding=values["embedding"],
            input=InputSpec.from_json(values["input"]),
            num_classes=values["num_classes"],
            block_outputs=tuple(values.get("block_outputs", ())),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON values."""
        values = asdict(self)
        if not self.block_outputs:
            del values["block_outputs"]
        return values


def check_class_names(labels: Any, location: str, *, distinct: bool = True) -> tuple[str, ...]:
    """Return class names as a tuple.

    Args:
        labels: The class names.
        location: The head or file that they are of, for errors.
        distinct: Refuse equal names. Files may have them: ImageNet has two classes "crane".

    Raises:
        BrickInputError: They are not a list of texts of one line, one is blank, or two are equal. A single space is
            not blank: it is a character for a head that reads text.
    """
    if isinstance(labels, str) or not isinstance(labels, Sequence) or not labels:
        raise BrickInputError(f"labels of {location}", "a list of names", repr(labels)[:100])
    if wrong := [
        label
        for label in labels
        if not isinstance(label, str) or not (label.strip() or label == " ") or len(label.splitlines()) > 1
    ]:
        raise BrickInputError(f"labels of {location}", "names that are text of one line", repr(wrong[0])[:100])
    if distinct and len(set(labels)) < len(labels):
        twice = next(label for index, label in enumerate(labels) if label in labels[:index])
        raise BrickInputError(f"labels of {location}", "names that differ", f"{twice[:100]!r} twice")
    return tuple(labels)


_COCO_SIGMAS = (  # nose, then left and right eye, ear, shoulder, elbow, wrist, hip, knee, ankle
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
_MEAN_SIGMA = round(sum(_COCO_SIGMAS) / len(_COCO_SIGMAS), 3)


@final
@dataclass(frozen=True)
class KeypointSpec:
    """The key points of an object or of an image, such as the joints of a body.

    Attributes:
        names: The name of each.
        flip_pairs: The pairs of indices that a horizontal flip of the image swaps, such as left and right eye;
            () if there are none, None if they are unknown.
        skeleton: The pairs of indices that a drawing joins by a line.
        sigmas: The tolerance of each in object key point similarity (OKS): the standard deviation of annotations, as a
            fraction of the square root of the object's area. By default COCO's where there are 17 key points, else the
            mean of these, 0.067, for each.

    Raises:
        BrickInputError: A name occurs twice, an index is out of range, or a tolerance is not above 0.
    """

    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...] | None = None
    skeleton: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_class_names(self.names, "key points")
        count = len(self.names)
        if not self.sigmas:
            sigmas = _COCO_SIGMAS if count == len(_COCO_SIGMAS) else (_MEAN_SIGMA,) * count
            object.__setattr__(self, "sigmas", sigmas)
        if len(self.sigmas) != count or min(self.sigmas) <= 0:
            raise BrickInputError("sigmas of key points", f"{count} numbers above 0", f"{list(self.sigmas)}")
        for what, pairs in (("flip_pairs", self.flip_pairs or ()), ("skeleton", self.skeleton)):
            if wrong := [pair for pair in pairs if len(pair) != 2 or not all(0 <= index < count for index in pair)]:
                raise BrickInputError(f"{what} of key points", f"pairs of indices in [0, {count})", f"{wrong[0]}")

    @classmethod
    def numbered(cls, count: int) -> Self:
        """Return key points named "0", "1", ..."""
        return cls(tuple(map(str, range(count))))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        flip_pairs = None if values["flip_pairs"] is None else _pairs(values["flip_pairs"])
        sigmas = tuple(map(float, values["sigmas"]))
        return cls(tuple(values["names"]), flip_pairs, _pairs(values["skeleton"]), sigmas)

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON values."""
        return {
            "names": list(self.names),
            "flip_pairs": None if self.flip_pairs is None else [list(pair) for pair in self.flip_pairs],
            "skeleton": [list(pair) for pair in self.skeleton],
            "sigmas": list(self.sigmas),
        }


def _pairs(values: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(first), int(second)) for first, second in values)


@final
@dataclass(frozen=True)
class HeadInfo:
    """What a head predicts.

    Attributes:
        task: The name of the task, such as "seg".
        variant: The name of the head among those of its task, such as "unet".
        labels: The class names, in the order of the outputs.
        image_size: (H, W) in pixels of the images that the head was trained on, None for those of its backbone.
        resize_mode: How these images were brought to that size: "squash" changes the aspect ratio, "letterbox" keeps it
            and pads with grey; None where it is unknown.
        trained: False if a training left the head at its initial random weights, because the data had no labels for it;
            True if it has trained weights; None if that is unknown.
        weights_tag: The weights tag of the model that the head is from, if a name with this tag builds other parts than
            one without, as for the models of other libraries; else None.
        keypoints: The key points of each object, None for a task without them.
    """

    task: str
    variant: str
    labels: tuple[str, ...]
    image_size: tuple[int, int] | None = None
    resize_mode: ResizeMode | None = None
    trained: bool | None = None
    weights_tag: str | None = None
    keypoints: KeypointSpec | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read the fields that `to_json` wrote; any other field is ignored."""
        size: Sequence[int] | None = values.get("image_size")
        image_size = None if size is None else (size[0], size[1])
        labels, mode = tuple(values["labels"]), values.get("resize_mode")
        points = values.get("keypoints")
        keypoints = None if points is None else KeypointSpec.from_json(points)
        trained, tag = values.get("trained"), values.get("weights_tag")
        return cls(values["task"], values["variant"], labels, image_size, mode, trained, tag, keypoints)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        values: dict[str, Any] = {"task": self.task, "variant": self.variant, "labels": list(self.labels)}
        if self.image_size is not None:
            values["image_size"] = list(self.image_size)
        if self.resize_mode is not None:
            values["resize_mode"] = self.resize_mode
        if self.trained is False:
            values["trained"] = False
        if self.weights_tag is not None:
            values["weights_tag"] = self.weights_tag
        return values if self.keypoints is None else {**values, "keypoints": self.keypoints.to_json()}
