"""Model names, parsed into recipes.

<backbone>_<task>[-<head>][_<task>[-<head>] ...][.<weights tag>]

resnet18_cls                          a timm backbone and a classifier
tf_efficientnet_lite0_cls.in1k        the same with the weights tagged "in1k"
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from brickyard.errors import UnknownNameError, nearest
from brickyard.recipe.recipe import HeadRecipe, Recipe


def parse_name(name: str, backbones: Collection[str], tasks: Mapping[str, Sequence[str]]) -> Recipe:
    """Parse a model name.

    Args:
        name: The longest backbone that leaves only task tokens is taken; the order of the tasks does not matter.
        backbones: The names of all backbones.
        tasks: The variants of each task's head, by the task's name, in the order of the heads in recipes.

    Raises:
        UnknownNameError: It is not a model name (with the nearest ones), or it is ambiguous (with both readings).
    """
    stem, dot, weights = name.partition(".")
    readings = [
        (backbone, heads)
        for backbone, tokens in _splits(stem)
        if backbone in backbones and (heads := _heads(tokens, tasks)) is not None
    ]
    if not readings or (dot and not weights):
        raise _unknown(name, stem, backbones, tasks)
    if len(readings) > 1:
        both = " or ".join(f"'{backbone}' with {[head.task for head in heads]}" for backbone, heads in readings)
        raise UnknownNameError("model", name, [], f"It is ambiguous: {both}. Put the tasks in another order.")
    backbone, heads = readings[0]
    return Recipe(backbone, heads, weights or None)


def parse_heads(heads: Mapping[str, str], tasks: Mapping[str, Sequence[str]]) -> tuple[HeadRecipe, ...]:
    """Parse heads with custom names, such as {"age": "cls", "parts": "seg-unet"}.

    Args:
        heads: The task token of each head, by the head's name.
        tasks: The variants of each task's head, by the task's name.

    Raises:
        UnknownNameError: A token that is neither a task nor one of its heads.
    """
    parsed = []
    for name, token in heads.items():
        heads_of_token = _heads([token], tasks)
        if heads_of_token is None:
            raise UnknownNameError("task", token, _tokens(tasks), f"For the head '{name}'.")
        parsed.append(replace(heads_of_token[0], name=name))
    return tuple(parsed)


def _tokens(tasks: Mapping[str, Sequence[str]]) -> list[str]:
    """Return every token of a task, with and without a variant."""
    return [*tasks, *(f"{task}-{variant}" for task, variants in tasks.items() for variant in variants)]


def _splits(stem: str) -> Iterator[tuple[str, list[str]]]:
    """Yield every split of the stem into a backbone and one or more tokens, the longest backbone first."""
    parts = stem.split("_")
    for count in range(1, len(parts)):
        yield "_".join(parts[:-count]), parts[-count:]


def _heads(tokens: Sequence[str], tasks: Mapping[str, Sequence[str]]) -> tuple[HeadRecipe, ...] | None:
    """Return the heads of the tokens in the order of `tasks`; None for an unknown token, or two of one task."""
    heads: dict[str, HeadRecipe] = {}
    for token in tokens:
        task, dash, variant = token.partition("-")
        if task in heads or task not in tasks or (dash and variant not in tasks[task]):
            return None
        default = not dash or variant == tasks[task][0]
        heads[task] = HeadRecipe(name=task, task=task, variant=None if default else variant)
    return tuple(heads[task] for task in tasks if task in heads)


def _unknown(name: str, stem: str, backbones: Collection[str], tasks: Mapping[str, Sequence[str]]) -> UnknownNameError:
    """Return the error that states which part of the name is wrong."""
    form = "A model name is <backbone>_<task>[-<head>]..., e.g. 'resnet18_cls'."
    if stem in backbones:
        hint = f"'{stem}' is a backbone: add a task to it, e.g. '{stem}_{next(iter(tasks))}'."
        return UnknownNameError("model", name, [f"{stem}_{task}" for task in tasks], hint)
    for backbone, tokens in _splits(stem):
        if backbone in backbones:
            wrong = next((token for token in tokens if _heads([token], tasks) is None), None)
            if wrong is None:
                return UnknownNameError("model", name, [], f"It names a task twice: {tokens}. {form}")
            hint = f"In the model name '{name}'."
            if _heads(tokens[-1:], tasks) is not None:  # tasks follow it: it may well be part of a backbone's name
                hint += f" {nearest(stem, _like(stem, backbones, tasks))}"
            return UnknownNameError("task", wrong, _tokens(tasks), hint)
    return UnknownNameError("model", name, _like(stem, backbones, tasks), f"No backbone in it. {form}")


def _like(stem: str, backbones: Collection[str], tasks: Mapping[str, Sequence[str]]) -> list[str]:
    """Return every backbone with the tasks at the end of the stem."""
    tokens = stem.split("_")
    first = next((i for i in range(1, len(tokens)) if _heads(tokens[i:], tasks) is not None), len(tokens))
    suffix = "_".join(tokens[first:]) or next(iter(tasks))
    return [f"{other}_{suffix}" for other in backbones]
