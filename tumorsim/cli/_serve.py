"""The local page: serve."""

from pathlib import Path

from tumorsim._validation import install_hint
from tumorsim.cli import _options as opt
from tumorsim.cli._app import app, say


@app.command(
    epilog="\b\nExample:\n  tumorsim serve index\n\n"
    "Prints a link with a token and opens it. Scans are kept in a private folder until it ends."
)
def serve(
    index_dir: opt.argument(Path, "Folder of the index.", "INDEX"),
    model: opt.Model = None,
    port: opt.option(int, "0 takes a free one.", min=0, max=65535) = 8765,
    no_browser: opt.flag("Only print the link.", "--no-browser") = False,
    host: opt.option(str, "Interface; another one than loopback needs --token.") = "127.0.0.1",
    token: opt.text("At least 16 characters.", envvar="TUMORSIM_TOKEN") = None,
    url: opt.text("Address that browsers use, with a proxy in front.") = None,
    dicomweb: opt.text("Address of a DICOMweb server to pull studies from.") = None,
    key_file: opt.path("Key that the archive was imported with.") = None,
    device: opt.Device = "auto",
):
    """Open a page to drop a scan on and see similar tumors."""
    try:
        from tumorsim.serve import serve
    except ModuleNotFoundError as err:
        raise ImportError(f"The page needs Starlette and uvicorn. {install_hint('serve')}") from err
    from tumorsim.retrieval import load_embedder
    from tumorsim.weights import find_weights

    options = {"host": host, "port": port, "token": token, "url": url, "browser": not no_browser}
    options["dicomweb"] = dicomweb
    options |= {"key_file": key_file, "model_name": (model := find_weights(model, progress=True))}
    serve(index_dir, load_embedder(model, device=device), echo=say, **options)
