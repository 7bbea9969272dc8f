"""Damage to a stored model: what a bad disk, a bad network or a bad author makes of its files.

Each is a function from the model's files, {name: content}, to the damaged ones. `sealed` makes the hashes of the
manifest right again, as an author would; then only what the files say is wrong.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from typing import Any

Files = dict[str, bytes]
Damage = Callable[[Files], Files]
HEAD, WEIGHTS, MANIFEST = "cls/head.json", "cls/head.safetensors", "bricks.json"
_DEEP = 100_000


class Bomb:
    """Unpickling it would leave a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("unpickled", "w")


def edited(name: str, change: Callable[[Any], Any]) -> Damage:
    """A JSON whose values were changed in place."""

    def damage(files: Files) -> Files:
        values = json.loads(files[name])
        change(values)
        return {**files, name: json.dumps(values).encode()}

    return damage


def set_to(name: str, *keys: str, value: Any) -> Damage:
    """A JSON with another value at a path of keys."""

    def change(values: Any) -> None:
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return edited(name, change)


def without(name: str, *keys: str) -> Damage:
    """A JSON without what was at a path of keys."""

    def change(values: Any) -> None:
        for key in keys[:-1]:
            values = values[key]
        del values[keys[-1]]

    return edited(name, change)


def replaced(name: str, content: bytes | Callable[[bytes], bytes]) -> Damage:
    """A file of other bytes."""
    return lambda files: {**files, name: content(files[name]) if callable(content) else content}


def sealed(damage: Damage) -> Damage:
    """The same by an author who takes care that every hash is right."""

    def both(files: Files) -> Files:
        sound, files = files, damage(dict(files))
        manifest = json.loads(files[MANIFEST])
        for path, entry in manifest["bricks"].items():
            config, weights = f"{path}.json", f"{path}.safetensors"
            if weights in files and files[weights] != sound[weights]:
                facts = {"sha256": hashlib.sha256(files[weights]).hexdigest(), "size": len(files[weights])}
                entry |= {"weights": facts["sha256"], "size": facts["size"]}
                files[config] = json.dumps({**json.loads(files[config]), "weights": facts}).encode()
            entry["config"] = hashlib.sha256(files[config]).hexdigest()
        return {**files, MANIFEST: json.dumps(manifest).encode()}

    return both


def header(content: Any, data: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(dtype: str, shape: list[int], end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


def flipped(place: float) -> Callable[[bytes], bytes]:
    """One byte inverted, at a part of the length."""

    def flip(content: bytes) -> bytes:
        at = min(int(place * len(content)), len(content) - 1)
        return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]

    return flip


def _broken_files() -> dict[str, Damage]:
    """Every way to lose bytes, for files of each kind."""
    found: dict[str, Damage] = {}
    for name in (MANIFEST, HEAD, WEIGHTS, "backbone.json", "backbone.safetensors", "cls/metrics.json"):
        found[f"{name} empty"] = replaced(name, b"")
        found[f"{name} cut by one"] = replaced(name, lambda content: content.rstrip()[:-1])
        found[f"{name} cut to eight"] = replaced(name, lambda content: content[:8])
        found[f"{name} half"] = replaced(name, lambda content: content[: len(content) // 2])
        found[f"{name} of zeros"] = replaced(name, lambda content: bytes(len(content)))
        found[f"{name} a page"] = replaced(name, b"<html><body>502 Bad Gateway</body></html>")
        found[f"{name} pickled"] = replaced(name, pickle.dumps(Bomb()))
        for place in (0, 0.3, 0.6, 0.999):
            found[f"{name} flipped at {place}"] = replaced(name, flipped(place))
    for name in (HEAD, WEIGHTS, "backbone.json", "backbone.safetensors"):
        found[f"{name} absent"] = lambda files, name=name: {key: files[key] for key in files if key != name}
    return found


def _bad_manifests() -> dict[str, Damage]:
    deep = b'{"format": 1, "bricks": ' + b"[" * _DEEP + b"]" * _DEEP + b"}"
    nested = b'{"format": 1, "x": ' + b'{"x":' * 900 + b"1" + b"}" * 900 + b"}"
    found = {
        "manifest deep": replaced(MANIFEST, deep),
        "manifest nested": replaced(MANIFEST, nested),
        "manifest a list": replaced(MANIFEST, b"[]"),
        "manifest null": replaced(MANIFEST, b"null"),
        "manifest twice a key": replaced(MANIFEST, lambda content: content.replace(b"{", b'{"format": 1,', 1)),
        "manifest NaN": replaced(MANIFEST, lambda content: content.replace(b'"format": 1', b'"format": NaN')),
        "manifest large": replaced(MANIFEST, lambda content: content + b" " * 9_000_000),
        "manifest half a pair": replaced(MANIFEST, lambda content: content.replace(b"{", b'{"x": "\\ud800",', 1)),
        "manifest long number": replaced(
            MANIFEST, lambda content: content.replace(b"{", b'{"x": ' + b"9" * 5000 + b",", 1)
        ),
    }
    for value in (None, 0, -1, 2, 99, "1", 1.0, [1], True):
        found[f"format {value!r}"] = set_to(MANIFEST, "format", value=value)
        found[f"format of a brick {value!r}"] = sealed(set_to(HEAD, "format", value=value))
    for key, values in {
        "at": (None, 3, [], {}, True),
        "config": (None, 3, "", "x", "0" * 63, "G" * 64, "0" * 64),
        "weights": (3, "", "x", [], "0" * 64),
        "size": (None, "1", -1, 1.5, 1e400, 10**400, []),
        "brick": (3, "x", [], {}),
    }.items():
        for value in values:
            found[f"entry {key} {str(value)[:20]!r}"] = set_to(MANIFEST, "bricks", "cls/head", key, value=value)
    for value in (None, 3, "x", [], [1], {"cls/head": None}, {"cls/head": []}, {"cls/head": {}}):
        found[f"bricks {value!r}"] = set_to(MANIFEST, "bricks", value=value)
    for name in NAMES:
        found[f"at {name[:30]!r}"] = set_to(MANIFEST, "bricks", "cls/head", "at", value=name)
        found[f"path {name[:30]!r}"] = edited(
            MANIFEST, lambda values, name=name: values["bricks"].update({name: values["bricks"]["cls/head"]})
        )
    for place in REFERENCES:
        found[f"reference {place!r}"] = set_to(MANIFEST, "bricks", "cls/head", "at", value=place)
    return found


NAMES = [
    "", "..", "../head", "cls/../../head", "/etc/passwd", "//head", "cls//head", "cls/", "./head", "C:\\head",
    "cls\\head", "~/head", "he ad", "head\0", "head\n", "héad", "cls/head.json", "x" * 300, "bricks", "Cls/Head",
    "file:///etc/passwd", "cls", "cls/head/deeper", "%2e%2e/head", "\ud83d\ude00",
]  # fmt: skip
REFERENCES = [
    "hf://user/repo/cls/head", "hf://user/repo@main/cls/head", f"hf://user/repo@{'0' * 39}/cls/head",
    f"hf://user/repo@{'A' * 40}/cls/head", f"hf://repo@{'0' * 40}/cls/head", f"hf://user/repo@{'0' * 40}",
    f"hf://user/repo@{'0' * 40}/../head", f"hf://user/repo@{'0' * 40}/cls/head.json", "zoo://", "zoo://none/cls/head",
    "zoo://../x/cls/head", "zoo://none", "https://host/cls/head", f"hf://datasets/repo@{'0' * 40}/cls/head/x",
    "file://cls/head",
]  # fmt: skip


def _bad_bricks() -> dict[str, Damage]:
    found: dict[str, Damage] = {}
    wrong = (3, -1, 1.5, "x", True, [], [1], [[]], {"x": 1}, {"": []})
    fields: dict[tuple[str, ...], tuple[Any, ...]] = {
        ("kind",): (None, *wrong, "BrickCollection", "os.system", "torch.nn.Linear"),
        ("type",): (None, *wrong, "os.system", "torch.nn.Linear", "../linear", "builtins.eval", "__import__"),
        ("args",): (None, 3, "x", True, [], [1], {"x": 1}, {"": 1}, {"in_features": "64", "out_features": 3}),
        ("settings",): (None, 3, "x", [1], {"x": 1}, {"model": 1}, {"input_names": ["x"]}),
        ("inputs",): (None, 3, "x", True, [1], [[]], {"x": 1}, ["a[", "b"], ["../../../x"], [""]),
        ("outputs",): (3, "x", True, [1], [[]], {"x": 1}, ["embedding"], ["../../x"]),
        ("tags",): (3, "x", [1], {"x": 1}),
        ("trainable",): (3, "x", []),
        ("weights",): (None, *wrong, {"sha256": 3, "size": 1}, {"sha256": "x", "size": "1"}),
        ("requires",): (3, "x", [1], {"backbone": 3}, {"backbone": {}}, {"backbone": {"channels": 3}}),
        ("requires", "backbone", "channels"): (None, 3, "x", {}),
        ("requires", "backbone", "sha256"): (3, [], "0" * 64),
        ("requires", "backbone", "embedding"): ("x", [], 1, -1, 1e400),
        ("requires", "backbone", "input"): (None, 3, {}, []),
        ("labels",): (None, 3, "abc", [1], {}, [["a"]]),
        ("variant",): (None, 3, []),
        ("task",): (3, []),
        ("licence",): (3, [], {}),
        ("metrics",): (3, [], {"Accuracy": "high"}, {"Accuracy": None}),
    }
    for keys, values in fields.items():
        for value in values:
            found[f"{'.'.join(keys)} {str(value)[:40]!r}"] = sealed(set_to(HEAD, *keys, value=value))
    for key in ("kind", "type", "args", "settings", "inputs", "outputs", "tags", "weights", "labels", "variant"):
        found[f"no {key}"] = sealed(without(HEAD, key))
    for value in (-1, 0, 10**12, 10**400, 1e400, 1.5, "3", None, [3], 2**63):
        for key in ("in_features", "out_features"):
            found[f"{key} {str(value)[:20]!r}"] = sealed(set_to(HEAD, "args", key, value=value))
    found["twice a key"] = sealed(replaced(HEAD, lambda content: content.replace(b"{", b'{"kind": "BrickLoss",', 1)))
    found["deep"] = sealed(replaced(HEAD, b'{"format": 1, "args": ' + b"[" * _DEEP + b"]" * _DEEP + b"}"))
    found["device meta"] = sealed(set_to(HEAD, "args", "device", value="meta"))
    found["provides"] = sealed(set_to("backbone.json", "provides", value={"features": 3}))
    found["provides channels"] = sealed(set_to("backbone.json", "provides", "features", "channels", value=3))
    found["a cycle"] = sealed(set_to(HEAD, "inputs", value=["./logits"]))
    for option in ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        found[f"timm {option}"] = sealed(set_to("backbone.json", "args", option, value="/elsewhere/x.pth"))
    for name in ("hf-hub:user/repo", "local-dir:/tmp", "../resnet18", "resnet18.none", ""):
        found[f"timm {name!r}"] = sealed(set_to("backbone.json", "args", "name", value=name))
    found["timm layers"] = sealed(set_to("backbone.json", "args", "layers", value=[10**6, 1, 1, 1]))
    return found


def _bad_weights() -> dict[str, Damage]:
    bias, weight = tensor("F32", [3], 12), {"dtype": "F32", "shape": [3, 96], "data_offsets": [12, 1164]}
    data = bytes(1164)
    contents = {
        "header of 2**63": (2**63).to_bytes(8, "little") + b"{}",
        "header of 99 MB": (99_000_000).to_bytes(8, "little") + b"{}" + bytes(100),
        "header deep": header(b"[" * _DEEP + b"]" * _DEEP),
        "header a list": header([]),
        "header no json": header(b"{x}"),
        "no tensors": header({}),
        "other dtype": header({"bias": {**bias, "dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
        "unknown dtype": header({"bias": {**bias, "dtype": "X"}, "weight": weight}, data),
        "offsets beyond": header({"bias": bias, "weight": {**weight, "data_offsets": [12, 2000]}}, data),
        "offsets overlap": header({"bias": bias, "weight": {**weight, "data_offsets": [0, 1152]}}, bytes(1152)),
        "offsets negative": header({"bias": {**bias, "data_offsets": [-12, 0]}, "weight": weight}, data),
        "shape too large": header({"bias": {**bias, "shape": [2**62]}, "weight": weight}, data),
        "empty of endless shape": header({"bias": tensor("F32", [2**63, 0], 0)}),
        "shape negative": header({"bias": {**bias, "shape": [-3]}, "weight": weight}, data),
        "no offsets": header({"bias": {"dtype": "F32", "shape": [3]}}, data),
        "of integers": header({"bias": {**bias, "dtype": "I32"}, "weight": {**weight, "dtype": "I32"}}, data),
        "of another model": header({"bias": bias}, bytes(12)),
        "pickled": pickle.dumps(Bomb()),
        "zipped": b"PK\x03\x04" + bytes(100),
    }
    return {f"weights {name}": sealed(replaced(WEIGHTS, content)) for name, content in contents.items()}


DAMAGE: dict[str, Damage] = {**_broken_files(), **_bad_manifests(), **_bad_bricks(), **_bad_weights()}
