"""`--config`: options of a command from a YAML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from brickyard.errors import BrickInputError, UnknownNameError

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    """Add `--config FILE`: a file with options by name, such as `batch_size: 32`; the command line overrides it."""
    option = click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        is_eager=True,  # read before the other options look for their defaults
        expose_value=False,
        callback=_use,
        help="YAML file with options by name, such as config.yaml of another run; options given here override it.",
    )
    return option(command)


def _use(ctx: click.Context, _option: click.Parameter, file: Path | None) -> None:
    if file is not None:
        ctx.default_map = read_options(file, ctx)


def read_options(file: Path, ctx: click.Context) -> dict[str, Any]:
    """Read the options of a command from a file, as texts that the command line could have.

    Args:
        file: A mapping in YAML from names of options and arguments, with `_` for `-`, to values; a list for an option
            that is repeatable, and null for the default of an option that has no value by default.
        ctx: The context of the command.

    Raises:
        UnknownNameError: The command has no such option.
        BrickInputError: The file is not a mapping in YAML, or a value is not one that the option takes.
    """
    options = {option.name: option for option in ctx.command.params if option.expose_value and option.name}
    values: dict[str, Any] = {}
    for name, value in _mapping(file).items():
        option = options.get(name)
        if option is None:
            raise UnknownNameError(f"option in {file}:", f"{name}", options)
        if value is None and not isinstance(option.default, (str, int, float)):
            continue
        values[name] = _as_texts(value, option, ctx, f"{file}, {name}")
    return values


def _mapping(file: Path) -> Mapping[str, Any]:
    expected = "options by name, as in 'steps: 1000'"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BrickInputError(f"{file}", f"{expected}, in YAML", f"{error}") from None
    if not isinstance(content, dict):
        raise BrickInputError(f"{file}", expected, type(content).__name__)
    return content


def _as_texts(value: Any, option: click.Parameter, ctx: click.Context, location: str) -> str | list[str]:
    """Return a value as the text of the command line, or the texts for a repeatable option."""
    each = value if option.multiple and isinstance(value, list) else [value]
    if not all(isinstance(x, (str, int, float)) for x in each):
        expected = "a single value, or a list as in [a, b]" if option.multiple else "a single value"
        raise BrickInputError(location, expected, repr(value))
    texts = [str(x) for x in each]
    text = texts if option.multiple else texts[0]
    try:
        option.type_cast_value(ctx, text)
    except click.BadParameter as error:
        raise BrickInputError(location, f"what {option.opts[-1]} takes", repr(value), error.message) from None
    return text
