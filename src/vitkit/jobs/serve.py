"""`vit serve`: models over HTTP, with a page to try them on.

The steps, in order: check what is asked for; take the address; open the models; say what was understood; serve until stopped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitkit.config import UserError
from vitkit.console import Console
from vitkit.engines.book import check_choice
from vitkit.engines.wrapped import why_missing
from vitkit.server.keys import Keys, read_keys
from vitkit.server.limits import Limits
from vitkit.server.logs import Log
from vitkit.server.models import Opening, name_models

if TYPE_CHECKING:
    from vitkit.server.state import State

__all__ = ["serve"]

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ORIGIN = re.compile(r"\*|https?://[^\s/*]+")


def serve(
    models: str | Path | Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: str = "auto",
    precision: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    workers: int = 2,
    api_key_file: str | Path | None = None,
    cors: Sequence[str] = (),
    reload: bool = True,
    log_format: str = "text",
    console: Console | None = None,
) -> None:
    """Serve models over HTTP until the process is told to stop.

    Args:
        models: paths or names of models, or ``NAME=PATH``; the first is the page's.
        host, port: the address; port 0 takes a free one, which is printed.
        engine, precision, overrides: see `vitkit.load`.
        limits: what clients may ask of the server.
        workers: threads that decode images.
        api_key_file: keys, one a line, of which clients have to show one.
        cors: origins of pages elsewhere that may ask, such as ``https://example.org``.
        reload: open a model anew when its files are replaced.
        log_format: ``text`` or ``json``, on stderr.

    Raises:
        UserError: a package of ``vitkit[serve]`` is missing, an address that cannot be used, or no such model.
    """
    console, limits = console or Console(), limits or Limits()
    for package in PACKAGES:
        if reason := why_missing(package, "serve"):
            raise UserError(f"vit serve cannot run: {reason}")
    check_choice(engine, precision)
    if workers < 1:
        raise UserError(f"--workers must be at least 1, got {workers}.")
    for origin in cors:
        if not ORIGIN.fullmatch(origin):
            raise UserError(f"--cors {origin!r} is no origin; write https://example.org, with a port where it has one.")
    given = [str(each) for each in ([models] if isinstance(models, str | Path) else models)]
    name_models(given)
    keys, log = Keys() if api_key_file is None else read_keys(api_key_file), Log(log_format)

    from vitkit.server.app import create_app
    from vitkit.server.running import Running, address_of, listen

    bound = listen(host, port)
    with bound:
        opening = Opening(engine, precision, dict(overrides or {}))
        app = create_app(given, opening=opening, limits=limits, keys=keys, log=log, workers=workers, origins=cors)
        _say(app.state.server, console)
        if not len(keys) and host not in LOOPBACK:
            console.warn(f"--host {host} lets other machines ask; --api-key-file FILE asks them for a key")
        Running(
            app, bound, reload=reload, started=lambda: console.say(f"serving   {address_of(bound)} (Ctrl-C stops)")
        ).run()


def _say(state: State, console: Console) -> None:
    """What was understood."""
    for model in state.registry.models:
        for note in model.ready.notes:
            console.warn(f"{model.name}: {note}")
        size = "x".join(map(str, model.facts["image_size"]))
        console.say(f"model     {model.name}: {model.path}, {len(model.facts['classes']):,} classes, {size} pixels")
        console.say(f"engine    {model.facts['engine']}")
    limits = state.limits
    console.say(
        f"limits    {limits.body_bytes / 2**20:g} MB and {limits.images} images a request, {limits.pixels / 1e6:g} megapixels "
        f"an image, {limits.queue} images waiting, {limits.seconds:g} s"
    )
    console.say(f"keys      {len(state.keys) or 'none: every client is answered'}")
