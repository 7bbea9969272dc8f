"""`brickyard page`: a static web site of models."""

from __future__ import annotations

from pathlib import Path

import click

import brickyard  # torch is loaded when a name is first used, so that --help is fast


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--runtime",
    type=click.Path(path_type=Path),
    help="Folder of the npm package onnxruntime-web, to copy its files into FOLDER.  [default: pages load them from a "
    "CDN]",
)
@click.option("--overwrite", is_flag=True, help="Write into a FOLDER that is not empty.")
@click.option("--serve", is_flag=True, help="Serve FOLDER on this machine afterwards, until Ctrl+C.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port of --serve.")
def page(folder: Path, models: tuple[str, ...], runtime: Path | None, overwrite: bool, serve: bool, port: int) -> None:
    """Write a static web site of trained MODELs into FOLDER: an index, and a page for each, with a demo in the browser.

    A MODEL is a name, a folder, a repo or a lock; without any, all models of the zoo. Images in the folder of a model
    are its sample images.

    \b
    brickyard page site
    brickyard page site models/mine hf://user/repo --overwrite --serve
    brickyard page site --runtime node_modules/onnxruntime-web      needs no other host

    Any static host serves FOLDER. Photos that are dropped on a demo stay in the browser.
    """  # noqa: D301 - click reads the \b
    brickyard.write_page(folder, models or None, runtime=runtime, overwrite=overwrite, progress=True)
    click.echo(f"Wrote {click.format_filename(folder / 'index.html')}")
    if serve:
        _serve(folder, port)


def _serve(folder: Path, port: int) -> None:
    from brickyard.page.server import make_server  # noqa: PLC0415

    with make_server(folder, port) as server:
        click.echo(f"Serving on http://127.0.0.1:{server.server_address[1]}/ until Ctrl+C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("")
