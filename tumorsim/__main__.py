"""``python -m tumorsim``: the command line, for torchrun and where no script is on the path."""

from tumorsim.cli import main

__all__ = []

if __name__ == "__main__":
    main()
