"""The `config.json` that segmentation_models.pytorch (smp) writes: the name of a class and its arguments.

The class is looked up in a table, and the arguments are checked, so that a file can name no other code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from brickyard.errors import BrickMismatchError, UnknownNameError, UnsafeBrickError
from brickyard.storage.manifest import check_bounded, parse_values
from brickyard.tasks.smp import ARCHITECTURES

_CLASS = "_model_class"
_MOST = 65_536  # the largest number in a config, such as a number of channels
_DEEPEST = 64  # maps of an encoder, which has one for each block of a ViT
# smp's own encoders whose tensors are those of timm's model of that name.
_RESNETS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext101_32x16d", "resnext101_32x32d"),
)
_DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")
_AS_TIMM = ("regnet", "res2", "resnest", "mobilenetv3", "gernet")  # `timm-` encoders that smp builds as `tu-`
_UNSAFE = {"device", "dtype", "features_only", "out_indices"}  # the last two are arguments of timm that smp sets

# Arguments that smp had under another name in earlier versions.
_RENAMED = {
    "decoder_use_batchnorm": "decoder_use_norm",
    "psp_use_batchnorm": "decoder_use_norm",
    "upscale_mode": "decoder_interpolation",
}
# Arguments of every model that say nothing about its decoder.
_COMMON = (
    *("encoder_name", "encoder_depth", "encoder_weights", "encoder_output_stride", "encoder_output_indices"),
    *("in_channels", "classes", "activation", "aux_params"),
)
_LOGITS = (None, "identity", "softmax", "softmax2d", "logsoftmax", "argmax", "argmax2d")  # of the logits of classes
_BINARY = (None, "identity", "sigmoid")  # of the only logit


@final
@dataclass(frozen=True)
class SmpConfig:
    """The content of `config.json`.

    Attributes:
        architecture: smp's name of the class in lower case.
        arguments: The arguments of the class, under the names that smp has for them now.
        location: The file, for errors.
    """

    architecture: str
    arguments: Mapping[str, Any]
    location: str

    @property
    def encoder(self) -> str:
        """smp's name of the encoder."""
        return str(self.arguments["encoder_name"])

    @property
    def in_channels(self) -> int:
        """The number of channels of the image."""
        return int(self.arguments.get("in_channels", 3))

    @property
    def classes(self) -> int:
        """The number of outputs."""
        return int(self.arguments.get("classes", 1))

    @property
    def decoder(self) -> dict[str, Any]:
        """Further arguments of the decoder."""
        return {name: value for name, value in self.arguments.items() if _is_of_decoder(name)}

    @property
    def backbone(self) -> str:
        """timm's name of the encoder.

        Raises:
            UnknownNameError: The encoder is not one of timm's.
        """
        if not self.is_timm:
            return self.encoder
        if self.encoder.startswith("tu-"):
            return self.encoder.removeprefix("tu-")
        name = self.encoder.removeprefix("timm-")
        if name != self.encoder and name.startswith(_AS_TIMM):
            return f"tf_{name}" if name.startswith("mobilenetv3") else name
        hint = "Supported are the encoders that are models of timm: these, and every 'tu-<name of timm>'."
        raise UnknownNameError("encoder of smp", self.encoder, [*_RESNETS, *_DENSENETS], hint)

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of `timm_backbone`."""
        stride = self._output_stride
        if self.encoder in _DENSENETS:
            return {"smp_output_stride": stride}
        if self.encoder in _RESNETS:
            return {} if stride == 32 else {"smp_output_stride": stride}
        further = {
            name: value for name, value in self.arguments.items() if name not in _COMMON and not _is_of_decoder(name)
        }
        return further if stride == 32 else {**further, "output_stride": stride}

    @property
    def is_timm(self) -> bool:
        """Whether smp has the encoder from timm as it is, as `encoder.model`."""
        return self.encoder not in _RESNETS and self.encoder not in _DENSENETS

    @property
    def readout(self) -> str:
        """What a DPT does with the class token of a ViT."""
        return str(self.arguments.get("decoder_readout", "cat"))

    def output_indices(self, blocks: int) -> list[int]:
        """Return the blocks of a ViT, of which there are `blocks`, whose maps a DPT takes."""
        indices = self.arguments.get("encoder_output_indices")
        depth = int(self.arguments.get("encoder_depth", 4))
        if indices is None:
            return [blocks * index // depth - 1 for index in range(1, depth + 1)]
        return [int(index) % blocks for index in indices]

    def to_json(self) -> dict[str, Any]:
        """Return the values that `check_config` takes."""
        return {_CLASS: self.architecture, **self.arguments}

    @property
    def _output_stride(self) -> int:
        default = {"deeplabv3": 8, "deeplabv3plus": 16, "pan": 16}.get(self.architecture, 32)
        return int(self.arguments.get("encoder_output_stride", default))


def read_config(content: bytes, location: str) -> SmpConfig:
    """Read the content of `config.json`; errors as for `check_config`, and `BrickIntegrityError` if it is not JSON."""
    return check_config(parse_values(content, location), location)


def check_config(values: Mapping[str, Any], location: str) -> SmpConfig:
    """Check the arguments of a model of smp.

    Args:
        values: The arguments, and the name of the class as `_model_class`.
        location: The file that they are from, for errors.

    Raises:
        UnknownNameError: No such architecture.
        UnsafeBrickError: Numbers out of bounds, or arguments that would name files or devices.
        BrickMismatchError: An argument is absent, or of another type; or the outputs are no classes.
    """
    name = values.get(_CLASS)
    if not isinstance(name, str):
        problem = f"'{_CLASS}': expected the name of a class of smp, found {str(name)[:100]}"
        raise BrickMismatchError(f"{location} is not the config of a model of smp", [problem])
    if name.lower() not in ARCHITECTURES:
        raise UnknownNameError("architecture of smp", name, ARCHITECTURES, f"In {location}.")
    check_bounded(dict(values), location, _MOST)
    arguments = {_RENAMED.get(key, key): value for key, value in values.items() if not key.startswith("_")}
    if problems := [*_type_problems(arguments), *_output_problems(arguments)]:
        raise BrickMismatchError(f"{location} cannot be imported", problems)
    names = arguments.keys() | {name for value in arguments.values() if isinstance(value, dict) for name in value}
    if unsafe := sorted(_UNSAFE & names):
        raise UnsafeBrickError(f"{location}: expected arguments without {unsafe}.")
    return SmpConfig(name.lower(), arguments, location)


def _is_of_decoder(name: str) -> bool:
    return name.startswith(("decoder_", "psp_")) or name == "upsampling"


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


_IS_RIGHT: Mapping[str, Callable[[Any], bool]] = {
    "encoder_name": lambda value: isinstance(value, str),
    "encoder_depth": lambda value: _is_count(value, _DEEPEST),
    "encoder_output_stride": lambda value: value in (8, 16, 32),
    "in_channels": lambda value: _is_count(value, _MOST),
    "classes": lambda value: _is_count(value, _MOST),
    "activation": lambda value: value is None or isinstance(value, str),
    "aux_params": lambda value: value is None or isinstance(value, dict),
}


def _type_problems(arguments: Mapping[str, Any]) -> list[str]:
    if "encoder_name" not in arguments:
        return ["'encoder_name' is missing"]
    return [
        f"'{name}': {str(arguments[name])[:100]!r} is not what smp takes"
        for name, is_right in _IS_RIGHT.items()
        if name in arguments and not is_right(arguments[name])
    ]


def _output_problems(arguments: Mapping[str, Any]) -> list[str]:
    """Return why the outputs are not one class per pixel; what follows the logits has no weights and is left out."""
    activation, classes = arguments.get("activation"), arguments.get("classes", 1)
    known = _BINARY if classes == 1 else _LOGITS
    if activation in known:
        return []
    why = " (masks that overlap, which is not one class per pixel)" if activation == "sigmoid" else ""
    return [f"'activation' of {classes} classes: expected one of {list(known)}, found {str(activation)[:100]!r}{why}"]
