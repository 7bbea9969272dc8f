"""Models of segmentation_models.pytorch (smp): folders and repos of the Hub that its `save_pretrained` wrote.

https://github.com/qubvel-org/segmentation_models.pytorch

smp itself builds the model on the meta device. This gives the tensors that a file must have, and the maps that the
decoder takes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from huggingface_hub import ModelCard
from torch import Tensor, nn
from yaml import YAMLError

from brickyard.core.brick import HasBricks
from brickyard.core.specs import BackboneSpec
from brickyard.errors import (
    BrickError,
    BrickInputError,
    BrickMismatchError,
    BrickNotFoundError,
    HubConnectionError,
    MissingExtraError,
    UnknownNameError,
)
from brickyard.importers.checkpoint import Checkpoint, open_checkpoint
from brickyard.importers.entry import ImportEntry, Prefix
from brickyard.importers.smp_config import SmpConfig, check_config, read_config
from brickyard.parts.backbones import timm_backbone, timm_spec
from brickyard.recipe.inspection import BACKBONE
from brickyard.storage.config import limit_modules
from brickyard.storage.sources.files import DEFAULT_ACCESS, Files, FolderFiles
from brickyard.storage.sources.hub import HubFiles
from brickyard.storage.weights import uninitialised, weight_problems

SCHEME = "smp:"
_HEAD = "seg/head"
_KEY = "smp_config"  # of the metadata of a head
_ENCODER = "encoder."  # the beginning of names in smp
_CONFIG, _WEIGHTS, _CARD = "config.json", "model.safetensors", "README.md"
_REPO = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?", re.A)
_UNKNOWN = "unknown"  # as the Hub spells a licence that is not stated
_BINARY = ("background", "foreground")
_PREFIXES = (
    Prefix("backbone.", BACKBONE),  # once they have timm's names
    Prefix("decoder.", _HEAD, "decoder."),
    Prefix("segmentation_head.", _HEAD, "segmentation_head."),
    Prefix("classification_head.", None),
)
_OLD_DEEPLAB = {"decoder.0.": "decoder.aspp.", "decoder.1.": "decoder.conv.", "decoder.2.": "decoder.bn."}


@final
@dataclass(frozen=True)
class SmpImport:
    """A model of smp that was found.

    Attributes:
        entry: The model that it becomes.
        checkpoint: Its weights.
        metadata: What is stored with each brick that has weights.
    """

    entry: ImportEntry
    checkpoint: Checkpoint
    metadata: Mapping[str, dict[str, Any]]


def open_smp(source: str, weights: str | Path | Mapping[str, Any] | None) -> SmpImport:
    """Find a model of smp and read its weights.

    Args:
        source: `smp:FOLDER`, `smp:user/repo` or `smp:user/repo@revision`.
        weights: As for `import_model`, instead of those in the folder or repo.

    Raises:
        MissingExtraError: The extra `importers` is not installed.
        UnknownNameError: No such folder, architecture or encoder.
        BrickNotFoundError: A file is absent.
        Other errors as for `import_model`, and huggingface_hub's own for a repo.
    """
    files = _files(source)
    with _stating_the_files():
        config = read_config(files.peek(_CONFIG), f"{files.location}/{_CONFIG}")
    ours = _planned(partial(_backbone, config))  # first, since it refuses unsafe options
    theirs = _planned(partial(_build, config))
    names = _encoder_names(theirs, ours, config)
    fresh = sorted(ours.state_dict().keys() - set(names.values()))
    spec = timm_spec(ours, config.in_channels, **config.options)
    decoder = _decoder_arguments(config, spec, theirs.encoder)
    entry = _entry(config, spec, decoder, partial(_convert, config, names, fresh))
    entry = replace(entry, source=f"{SCHEME}{_name(files)}", url=_url(files))
    metadata: dict[str, Any] = {"source": f"{entry.source} with weights of the user"}
    if weights is None:
        with _stating_the_files():
            licence, weights = _download(files)
        metadata = {"source": ", ".join(filter(None, [entry.source, entry.url])), "licence": licence}
    checkpoint = open_checkpoint(entry, weights)
    checkpoint = replace(checkpoint, state=_present_names(config, checkpoint.state))
    if problems := weight_problems(theirs.state_dict(), checkpoint.state):
        raise BrickMismatchError(f"{checkpoint.location} is not of the model in {config.location}", problems)
    if config.arguments.get("aux_params"):
        warnings.warn(f"The classification head (aux_params) of '{source}' is left out.", stacklevel=4)
    if checkpoint.sha256 is not None:
        metadata["source_sha256"] = checkpoint.sha256
    of_backbone = {**metadata, "fresh": fresh} if fresh else metadata
    return SmpImport(entry, checkpoint, {BACKBONE: of_backbone, _HEAD: {**metadata, _KEY: config.to_json()}})


def to_smp(model: HasBricks) -> nn.Module:
    """Return a model that was imported from smp as a model of smp again, with its present weights.

    smp's `save_pretrained` writes it as files of smp.

    Args:
        model: The model. Its backbone and the head `seg` may have been trained.

    Returns:
        The model of smp, which takes normalised images, in training mode. What `import_model` left out is absent (an
        auxiliary classification head) or fresh (a ViT's classifier, which smp keeps but does not use).

    Raises:
        MissingExtraError: The extra `importers` is not installed.
        BrickInputError: The model was not imported from smp.
        BrickMismatchError: Backbone and head are not those of the imported model, for instance with other classes.
    """
    bricks = model.bricks()
    head, backbone = bricks.get(_HEAD), bricks.get(BACKBONE)
    values = None if head is None else head.metadata.get(_KEY)
    if head is None or head.module is None or backbone is None or backbone.module is None or values is None:
        raise BrickInputError("to_smp", f"a model whose '{_HEAD}' was imported from smp", f"{sorted(bricks)}")
    config = check_config({**values, "aux_params": None}, f"{_KEY} of brick '{_HEAD}'")
    planned = _planned(partial(_build, config))
    names, weights = _encoder_names(planned, backbone.module, config), backbone.module.state_dict()
    state = {theirs: weights[ours] for theirs, ours in names.items()} | head.module.state_dict()
    unused = _unused(planned)
    expected = {key: tensor for key, tensor in planned.state_dict().items() if key not in unused}
    if problems := weight_problems(expected, state):
        raise BrickMismatchError(f"The bricks are not those of {config.location}", problems)
    built: nn.Module = _build(config)
    built.load_state_dict({**built.state_dict(), **state})
    return built


def _files(source: str) -> Files:
    location = source.removeprefix(SCHEME)
    folder = Path(location).expanduser()
    if location and folder.is_dir():
        return FolderFiles(folder, DEFAULT_ACCESS)
    if match := _REPO.fullmatch(location):
        return HubFiles(match[1], match[2], DEFAULT_ACCESS)
    hint = f"There is no such folder. The forms are '{SCHEME}FOLDER', '{SCHEME}user/repo' and '{SCHEME}user/repo@rev'."
    raise UnknownNameError("source", source, [], hint)


def _name(files: Files) -> str:
    """Return the name of a repo or folder, without the folders of this machine that it is in."""
    return files.repo if isinstance(files, HubFiles) else Path(files.location).resolve().name


def _url(files: Files) -> str:
    return f"https://huggingface.co/{files.repo}/tree/{files.commit}" if isinstance(files, HubFiles) else ""


@contextmanager
def _stating_the_files() -> Iterator[None]:
    """Add to an error of the connection what to download elsewhere."""
    try:
        yield
    except HubConnectionError as error:
        hint = f"Download {_CONFIG} and {_WEIGHTS} into a folder, which import_model('{SCHEME}FOLDER') takes."
        raise HubConnectionError(f"{error} {hint}") from None


def _download(files: Files) -> tuple[str, Path]:
    """Return the licence and the file of the weights; the files stay in the cache for use without network."""
    try:
        card = files.peek(_CARD)
    except BrickNotFoundError:
        card = None
    files.fetch(dict.fromkeys([_CONFIG, _WEIGHTS] if card is None else [_CONFIG, _WEIGHTS, _CARD]))
    return _UNKNOWN if card is None else _licence(card), files.file(_WEIGHTS)


def _licence(card: bytes) -> str:
    """Return the licence that a card states."""
    try:
        data = ModelCard(card.decode(errors="replace"), ignore_metadata_errors=True).data
    except (YAMLError, ValueError, TypeError):
        return _UNKNOWN
    stated = data.get("license_name") if data.get("license") == "other" else data.get("license")
    return stated if isinstance(stated, str) and re.fullmatch(r"[\w.+() -]{1,100}", stated, re.A) else _UNKNOWN


def _backbone(config: SmpConfig) -> nn.Module:
    """Build timm's model with fresh weights; errors as for `_build`, and those of `timm_backbone`."""
    with _refusing(config, "timm"):
        return timm_backbone(config.backbone, config.in_channels, **config.options)


def _build(config: SmpConfig) -> Any:
    """Build smp's model with fresh weights.

    Raises:
        BrickMismatchError: smp does not take the arguments.
        UnsafeBrickError: They ask for too many modules.
    """
    try:
        import segmentation_models_pytorch as smp  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("Importing models of segmentation_models.pytorch", "importers") from None
    with warnings.catch_warnings(), _refusing(config, "smp"):
        warnings.simplefilter("ignore")  # about names of encoders
        return smp.MODEL_ARCHITECTURES_MAPPING[config.architecture](**{**config.arguments, "encoder_weights": None})


def _planned(build: Callable[[], Any]) -> Any:
    """Build a model for the shapes of its tensors, without memory."""
    try:
        with uninitialised(), torch.device("meta"):
            return build()
    except BrickMismatchError as error:
        if not isinstance(error.__cause__, NotImplementedError):
            raise
    with uninitialised():  # an operator that this torch lacks on the meta device; memory that is not filled is not used
        return build()


@contextmanager
def _refusing(config: SmpConfig, library: str) -> Iterator[None]:
    """Convert whatever a library raises about the arguments, which are from a file, into an error of that file."""
    try:
        with limit_modules(config.location):
            yield
    except BrickError:
        raise
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error)[:300]}"
        raise BrickMismatchError(f"{library} cannot build the model in {config.location}", [problem]) from error


def _encoder_names(model: Any, backbone: nn.Module, config: SmpConfig) -> dict[str, str]:
    """Return timm's name of each tensor that smp has in its encoder and uses.

    smp has `tu-` encoders as `encoder.model`, and timm's models that return features have underscores for some dots.

    Raises:
        BrickMismatchError: The encoder has a tensor that the backbone does not have.
    """
    ours, unused = backbone.state_dict(), _unused(model)
    flat = {key.replace(".", "_"): key for key in ours}
    names, problems = {}, []
    for key, tensor in model.state_dict().items():
        if not key.startswith(_ENCODER) or key in unused:
            continue
        plain = key.removeprefix(_ENCODER)
        while plain.replace(".", "_") not in flat and plain.startswith("model."):
            plain = plain.removeprefix("model.")
        name = flat.get(plain.replace(".", "_"))
        if name is None or ours[name].shape != tensor.shape:
            problems.append(f"'{key}', of shape {tuple(tensor.shape)}, is not in timm's model")
        else:
            names[key] = name
    if problems or len(set(names.values())) < len(names):
        raise BrickMismatchError(f"smp's encoder '{config.encoder}' is not timm's '{config.backbone}'", problems)
    return names


def _unused(model: Any) -> set[str]:
    """Return the tensors of the classifier that smp leaves in the ViT of a DPT."""
    get_classifier = getattr(getattr(model.encoder, "model", None), "get_classifier", None)
    weights = {id(weight) for weight in get_classifier().parameters()} if get_classifier else set()
    return {name for name, weight in model.named_parameters() if id(weight) in weights}


def _decoder_arguments(config: SmpConfig, spec: BackboneSpec, encoder: Any) -> dict[str, Any]:
    """Return the arguments of the part `smp_decoder`, with the maps that smp's encoder gives to the decoder."""
    channels, maps = list(encoder.out_channels), spec.features
    if config.architecture == "dpt":
        if encoder.has_prefix_tokens and config.readout != "ignore":
            problem = f"decoder_readout: expected 'ignore', found '{config.readout}': class tokens are not supported"
            raise BrickMismatchError(f"{config.location} cannot be imported", [problem])
        before, levels = [], config.output_indices(len(maps.channels))
    else:
        is_timm = hasattr(encoder, "model")
        levels = list(encoder.model.feature_info.out_indices) if is_timm else [*range(len(channels) - 1)]
        before = [("image", 1), ("empty", 2)][: len(channels) - len(levels)]
    if [maps.channels[level] for level in levels] != channels[len(before) :]:
        problem = f"channels of the maps: smp has {channels}, timm {list(maps.channels)}"
        raise BrickMismatchError(f"smp's encoder '{config.encoder}' is not timm's '{config.backbone}'", [problem])
    return {
        "architecture": config.architecture,
        "levels": [*(name for name, _ in before), *levels],
        "channels": channels,
        "strides": [*(stride for _, stride in before), *(maps.strides[level] for level in levels)],
        "is_binary": config.classes == 1,
        **config.decoder,
    }


def _entry(config: SmpConfig, spec: BackboneSpec, decoder: Mapping[str, Any], convert: Any) -> ImportEntry:
    stem, _, tag = config.backbone.partition(".")
    multiple = max(spec.features.strides)
    size = tuple(-(-side // multiple) * multiple for side in spec.input.size)
    return ImportEntry(
        source="",
        name=f"{stem}_seg-smp{config.architecture}" + (f".{tag}" if tag else ""),
        labels={"seg": _BINARY if config.classes == 1 else tuple(map(str, range(config.classes)))},
        metrics={},
        licence=_UNKNOWN,
        url="",
        size=0,
        image_size=None if size == spec.input.size else (size[0], size[1]),
        resize_mode=None,
        prefixes=_PREFIXES,
        in_chans=config.in_channels,
        options=config.options,
        parts={_HEAD: decoder},
        convert=convert,
    )


def _present_names(config: SmpConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state under the names that smp has now, where earlier versions had others."""
    renamed = {}
    for key, tensor in state.items():
        name = key
        if config.architecture == "deeplabv3":
            name = next((new + key.removeprefix(old) for old, new in _OLD_DEEPLAB.items() if key.startswith(old)), key)
        if config.is_timm and name.startswith(_ENCODER) and not name.startswith(f"{_ENCODER}model."):
            name = f"{_ENCODER}model.{name.removeprefix(_ENCODER)}"
        renamed[name] = tensor
    return renamed


def _convert(
    config: SmpConfig, names: Mapping[str, str], fresh: Sequence[str], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Give the tensors of the encoder timm's names, and add fresh ones for those that smp leaves out.

    smp leaves out what comes after the last map, such as the last norm of a ViT. It begins with weights of one seed, so
    that one file always gives equal bricks.
    """
    converted = {key: tensor for key, tensor in state.items() if not key.startswith(_ENCODER)}
    converted |= {f"backbone.{ours}": state[theirs] for theirs, ours in names.items()}
    if fresh:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            initial = _backbone(config).state_dict()
        converted |= {f"backbone.{key}": initial[key] for key in fresh}
    return converted
