"""The local page: a server on which a person drops a scan and looks at the most similar tumors."""

from tumorsim.serve._app import make_app, serve
from tumorsim.serve._uploads import Limits

__all__ = ["Limits", "make_app", "serve"]
