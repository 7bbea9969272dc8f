"""`brickyard pull`, `push`, `swap`, `inspect`, `lock` and `verify`: one brick at a time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import brickyard  # its names load torch when they are used, so that --help is quick
from brickyard.cli.models import trained

if TYPE_CHECKING:
    from brickyard.storage.fit import Check

_PLACES = """
    \b
    path/to/model, path/to/model/seg          a folder, or a place in it
    tf_efficientnet_lite0_cls.in1k            a model of the zoo
    hf://user/repo, hf://user/repo@v1/seg     a repo of the Hub, or a place in it
    model.lock.json                           a lock
"""
_CHECK = click.option(
    "--check",
    default="exact",
    show_default=True,
    type=click.Choice(["exact", "input", "shape"]),
    help="How well a head must fit: the very backbone, its images and features, or its features alone.",
)
_BRICKS = click.option("--brick", "bricks", multiple=True, metavar="PATH", help="Only this brick or place; repeatable.")


@click.command()
@click.argument("source")
@click.argument("folder", type=click.Path(path_type=Path))
@_BRICKS
@_CHECK
def pull(source: str, folder: Path, bricks: tuple[str, ...], check: Check) -> None:
    """Fetch the model SOURCE, or some of its bricks, into FOLDER.

    Every file is checked against its hash. Tokens and caches are huggingface_hub's (`hf auth login`).
    """
    model = brickyard.BrickCollection.from_pretrained(source, bricks=bricks or None, check=check)
    model.save_pretrained(folder)
    click.echo(f"{len(model.bricks())} bricks in {folder}")


@click.command()
@click.argument("folder")
@click.argument("repo")
@_BRICKS
@click.option("--refer", multiple=True, metavar="PATH[=URI]", help="Name it where it is published already; repeatable.")
@click.option("--private", is_flag=True, help="Make a new repo private.")
@click.option("--pr", "create_pr", is_flag=True, help="Propose it as a pull request.")
@click.option("--allow-stale", is_flag=True, help="Push heads, too, whose backbone was changed after their training.")
@click.option("--message", default=None, help="Of the commit.")
def push(
    folder: str,
    repo: str,
    bricks: tuple[str, ...],
    refer: tuple[str, ...],
    private: bool,
    create_pr: bool,
    allow_stale: bool,
    message: str | None,
) -> None:
    """Publish the model in FOLDER, or some of its bricks, in the REPO user/repo of the Hub.

    One commit, with the bricks that changed and nothing else. What others pushed there stays.
    """
    named = dict(each.split("=", 1) for each in refer if "=" in each)
    done = brickyard.BrickCollection.from_pretrained(folder).push_to_hub(
        repo,
        bricks=bricks or None,
        refer=named or refer,
        private=private or None,
        create_pr=create_pr,
        allow_stale=allow_stale,
        commit_message=message,
    )
    click.echo(done.pr_url or done.commit_url)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("name")
@click.argument("source")
@_CHECK
def swap(folder: Path, name: str, source: str, check: Check) -> None:
    """Put the brick or head of SOURCE in the place NAME of the model in FOLDER.

    A head that does not fit is refused before its weights travel.

    \b
    brickyard swap models/mine seg hf://user/repo/seg
    brickyard swap models/mine seg path/to/other/model
    """  # noqa: D301 - click reads the \b
    model = brickyard.BrickCollection.from_pretrained(folder)
    model.swap(name, source, check=check)
    model.save_pretrained(folder)
    click.echo(f"{name} of {folder} is now from {source}")


@click.command()
@click.argument("source")
@click.option("--model", default=None, help="Say, too, whether it fits this model: a name or a place.")
@_CHECK
def inspect(source: str, model: str | None, check: Check) -> None:
    """Show what a stored brick or head is, without fetching its weights.

    With --model the exit code is 1 if it does not fit.
    """
    info = brickyard.inspect_brick(source)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")  # a hash is worth nothing cut short
    facts = {"kind": info.config.get("kind"), "part": info.config.get("type"), "task": info.task}
    facts |= {"reads": info.config.get("inputs"), "writes": info.config.get("outputs"), "licence": info.licence}
    if info.labels:
        facts["classes"] = (
            f"{len(info.labels)}: {', '.join(map(str, info.labels[:8]))}{', ...' * (len(info.labels) > 8)}"
        )
    if info.weights:
        facts["weights"] = f"{info.weights['size']} bytes, sha256 {info.weights['sha256']}"
    for what, needs in (("needs", info.requires), ("provides", info.config.get("provides"))):
        for key, value in (needs or {}).items():
            facts[f"{what} {key}"] = value
    facts |= {f"measured {key}": value for key, value in info.config.get("metrics", {}).items()}
    table.add_row("brick", escape(info.uri or f"{info.location}/{info.path}"))
    for key, value in facts.items():
        if value is not None:
            table.add_row(key, escape(value if isinstance(value, str) else json.dumps(value)))
    Console(soft_wrap=True).print(table, highlight=False)
    if model is not None:
        problems = brickyard.fits(info, trained(model), check)
        click.echo("\n".join([f"does not fit {model}:", *problems]) if problems else f"fits {model}")
        sys.exit(1 if problems else 0)


@click.command()
@click.argument("source")
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Write it there.  [default: print it]")
def lock(source: str, out: Path | None) -> None:
    """Pin the model SOURCE: a file with nothing but references and hashes.

    `brickyard pull model.lock.json FOLDER` and `BrickCollection.from_pretrained("model.lock.json")` build exactly this
    model anywhere.
    """
    values = brickyard.BrickCollection.from_pretrained(source).lock(out)
    click.echo(
        json.dumps(values, indent=2, ensure_ascii=False) if out is None else f"{len(values['bricks'])} bricks: {out}"
    )


@click.command()
@click.argument("source")
def verify(source: str) -> None:
    """Read every file of the model SOURCE and compare its hash. The exit code is 1 if one is wrong."""
    paths, problems = brickyard.verify(source)
    for problem in problems:
        click.echo(problem, err=True)
    click.echo(f"{len(paths)} bricks, {len(problems)} problems")
    sys.exit(1 if problems else 0)


for command in (pull, inspect, lock, verify):
    command.help = f"{command.help}\n\n    SOURCE may be:\n{_PLACES}"
