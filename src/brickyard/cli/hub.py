"""`brickyard pull`, `push`, `swap`, `inspect`, `lock` and `verify`: models and single bricks on the Hub and on disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

import brickyard  # torch is loaded when a name is first used, so that --help is fast
from brickyard.cli.models import load_trained
from brickyard.cli.output import echo_rows

if TYPE_CHECKING:
    from brickyard.storage.fit import Check

_SOURCES = """
    \b
    path/to/model, path/to/model/seg          a folder, or a brick or prefix in it
    tf_efficientnet_lite0_cls.in1k            a zoo model
    hf://user/repo, hf://user/repo@v1/seg     a repo on the Hub, or a brick or prefix in it
    model.lock.json                           a lock file
"""
_CHECK = click.option(
    "--check",
    default="exact",
    show_default=True,
    type=click.Choice(["exact", "input", "shape"]),
    help="What must match for a head: the weights of the backbone, its image input and features, or its features only.",
)
_BRICKS = click.option(
    "--brick",
    "bricks",
    multiple=True,
    metavar="PATH",
    help="Only this brick, or the bricks under this prefix; repeatable.",
)


@click.command()
@click.argument("source")
@click.argument("folder", type=click.Path(path_type=Path))
@_BRICKS
@_CHECK
def pull(source: str, folder: Path, bricks: tuple[str, ...], check: Check) -> None:
    """Download the model SOURCE, or some of its bricks, into FOLDER.

    The hash of every file is verified. Tokens and the cache are those of huggingface_hub (`hf auth login`).
    """
    model = brickyard.BrickCollection.from_pretrained(source, bricks=bricks or None, check=check)
    model.save_pretrained(folder)
    click.echo(f"{len(model.bricks())} bricks in {folder}")


@click.command()
@click.argument("folder")
@click.argument("repo")
@_BRICKS
@click.option(
    "--refer",
    multiple=True,
    metavar="PATH[=URI]",
    help="Refer to a published brick instead of uploading it; repeatable.",
)
@click.option("--private", is_flag=True, help="Create a new repo as private.")
@click.option("--pr", "create_pr", is_flag=True, help="Open a pull request instead of committing.")
@click.option("--allow-stale", is_flag=True, help="Also push heads whose backbone has changed since their training.")
@click.option("--message", default=None, help="Commit message.")
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
    """Upload the model in FOLDER, or some of its bricks, to the REPO user/repo on the Hub.

    Makes one commit with the changed bricks only. Bricks pushed by others are kept.
    """
    uris = dict(item.split("=", 1) for item in refer if "=" in item)
    pushed = brickyard.BrickCollection.from_pretrained(folder).push_to_hub(
        repo,
        bricks=bricks or None,
        refer=uris or refer,
        private=private or None,
        create_pr=create_pr,
        allow_stale=allow_stale,
        commit_message=message,
    )
    click.echo(pushed.pr_url or pushed.commit_url)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("name")
@click.argument("source")
@_CHECK
def swap(folder: Path, name: str, source: str, check: Check) -> None:
    """Replace the brick or head NAME of the model in FOLDER by that of SOURCE.

    A head that does not fit is refused before its weights are downloaded.

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
@click.option("--model", default=None, help="Also check whether it fits this model, a name or a source.")
@_CHECK
def inspect(source: str, model: str | None, check: Check) -> None:
    """Show the metadata of a stored brick or head, without downloading its weights.

    With --model the exit code is 1 if it does not fit.
    """
    info = brickyard.inspect_brick(source)
    rows = {"kind": info.config.get("kind"), "part": info.config.get("type"), "task": info.task}
    rows |= {"reads": info.config.get("inputs"), "writes": info.config.get("outputs"), "licence": info.licence}
    if info.labels:
        rows["classes"] = (
            f"{len(info.labels)}: {', '.join(map(str, info.labels[:8]))}{', ...' * (len(info.labels) > 8)}"
        )
    if info.weights:
        rows["weights"] = f"{info.weights['size']} bytes, sha256 {info.weights['sha256']}"
    for what, values in (("requires", info.requires), ("provides", info.config.get("provides"))):
        for key, value in (values or {}).items():
            rows[f"{what} {key}"] = value
    rows |= {f"metric {key}": value for key, value in info.config.get("metrics", {}).items()}
    shown = {name: value for name, value in rows.items() if value is not None}
    echo_rows(
        [("brick", info.uri or f"{info.location}/{info.path}")]
        + [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in shown.items()]
    )
    if model is not None:
        problems = brickyard.fits(info, load_trained(model), check)
        click.echo("\n".join([f"does not fit {model}:", *problems]) if problems else f"fits {model}")
        sys.exit(1 if problems else 0)


@click.command()
@click.argument("source")
@click.option("--out", default=None, type=click.Path(path_type=Path), help="File to write.  [default: print]")
def lock(source: str, out: Path | None) -> None:
    """Write a lock file of the model SOURCE: pinned references and hashes of all bricks.

    `brickyard pull model.lock.json FOLDER` and `BrickCollection.from_pretrained("model.lock.json")` create exactly this
    model on any machine.
    """
    from brickyard.storage.lock import lock_source  # noqa: PLC0415 - it loads torch, and --help must be fast

    values = lock_source(source, out)
    click.echo(
        json.dumps(values, indent=2, ensure_ascii=False) if out is None else f"{len(values['bricks'])} bricks: {out}"
    )


@click.command()
@click.argument("source")
def verify(source: str) -> None:
    """Read every file of the model SOURCE and verify its hash. The exit code is 1 if one differs."""
    paths, problems = brickyard.verify(source)
    for problem in problems:
        click.echo(problem, err=True)
    click.echo(f"{len(paths)} bricks, {len(problems)} problems")
    sys.exit(1 if problems else 0)


for command in (pull, inspect, lock, verify):
    command.help = f"{command.help}\n\n    SOURCE may be:\n{_SOURCES}"
