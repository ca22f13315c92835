"""Commands for files of weights: list, fetch, verify, path."""

import typer

from tumorsim.cli import _options as opt
from tumorsim.cli._app import app, say

Name = opt.argument(str | None, "Such as t1c-v6. Default: the default weights.", "[NAME]")

weights_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, fetch, verify or locate the files of pretrained weights.",
    epilog="\b\nExample:\n  tumorsim weights list\n\n"
    "A file is looked for in the package, then in the cache, then on a server. TUMORSIM_CACHE names another "
    "cache, TUMORSIM_WEIGHTS_URL another server or several, separated by commas. TUMORSIM_OFFLINE=1 forbids "
    "the network. Proxies (HTTPS_PROXY) and CA certificates (REQUESTS_CA_BUNDLE) are respected.",
)


app.add_typer(weights_app, name="weights")


@weights_app.command("list", epilog="\b\nExample:\n  tumorsim weights list")
def weights_list():
    """Show the weights that this version knows, and where each file is."""
    from tumorsim.weights import list_weights

    rows = list_weights()
    if not rows:
        say("This build of tumorsim ships no weights. Train a model with 'tumorsim fit'.")
        return
    table = [("name", "version", "size", "license", "where", "")]
    for row in rows:
        size, default = f"{row['size'] / 1e6:.1f} MB", "(default)" if row["is_default"] else ""
        table.append((row["name"], row["version"], size, row["license"], row["where"], default))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("  ".join(cells).rstrip())
    say("")
    for row in rows:
        say(f"{row['name']}: {row['description']}")


@weights_app.command(
    "fetch",
    epilog="\b\nExample:\n  tumorsim weights fetch t1c-v6\n\nFrom your own server:\n\n\b\n"
    "  TUMORSIM_WEIGHTS_URL=https://intranet/models tumorsim weights fetch",
)
def weights_fetch(
    name: Name = None,
    force: opt.flag("Download into the cache even if the file is there, and replace it.", "--force") = False,
):
    """Print the path of a file of weights; download it if needed."""
    from tumorsim.weights import fetch_weights

    say(fetch_weights(name, force=force, progress=True))


@weights_app.command(
    "verify",
    epilog="\b\nExample:\n  tumorsim weights verify t1c-v6\n  tumorsim weights verify model.safetensors",
)
def weights_verify(name: Name = None):
    """Check weights, by name or path: SHA-256, fingerprint and network."""
    from tumorsim.weights import verify_weights

    facts = verify_weights(name)
    say(f"{facts['path']} is whole.")
    say(f"weights:     {facts['name'] or 'none of the shipped ones'}")
    say(f"sha256:      {facts['sha256']}")
    say(f"fingerprint: {facts['fingerprint']}")


@weights_app.command(
    "path",
    epilog="\b\nExample:\n  tumorsim weights path t1c-v6\n\n"
    "A file that 'list' shows as 'to be fetched' can be put there by hand; then check it with 'verify'.",
)
def weights_path(name: Name = None):
    """Print where a file of weights lies, or where to put it.

    Nothing is downloaded.
    """
    from tumorsim.weights import weights_path

    path = weights_path(name)
    say(path)
    if not path.is_file():
        say("There is no file at this path yet. Put it there, or run 'tumorsim weights fetch'.", err=True)
