"""The command ``python -m benchmarks.paper``."""

import argparse
import functools
import sys
from pathlib import Path

from benchmarks.paper import PRESETS, run_benchmark

__all__ = ["main"]

DESCRIPTION = """Repeat the paper's tables and figures, beside baselines.

Networks are trained with all tasks, with tasks removed, with fewer channels, labels and patients. Tumors of
held-out patients are the queries, tumors of training patients the gallery. Writes report.md, figures, and a
table of all scores (results.csv).
"""

EPILOG = """Examples:
  python -m benchmarks.paper --preset smoke --out smoke
  python -m benchmarks.paper --preset small --out small --anatomies heads --stacks scans.csv
  python -m benchmarks.paper --preset small --out mine --manifest archive.csv --only table3,baselines

A benchmark that was stopped continues with the same command: every fit is kept. Preset smoke takes two
minutes, small some hours on two cores, paper days on a GPU.

Experiments: table2 (channels), table3 (tasks removed), table4 (distorted boxes),
fig4 (number of neighbors), fig5 (map), fig6 (neighbors as pictures), baselines,
missing_labels, cohort_size, contrastive, finetune, real (--stacks), sites (data sets),
label_free (--dates).
"""


def main(argv=None):
    """Parse the options and run the benchmark; what the user can mend ends with one line and exit code 2.

    Parameters
    ----------
    argv : list of str, optional
        Default: those of the command.
    """
    args = _parser().parse_args(argv)
    try:
        if args.out.exists() and not args.out.is_dir():
            raise ValueError(f"'{args.out}' is a file. Give a folder.")
        run_benchmark(
            args.out, args.preset, anatomies=args.anatomies, manifest=args.manifest, stacks=args.stacks,
            dates=args.dates, only=args.only, train=not args.no_training, n_jobs=args.n_jobs, verbose=1,
            echo=functools.partial(print, flush=True),
        )  # fmt: skip
    except (ImportError, OSError, TypeError, ValueError) as err:
        if args.debug:
            raise
        print(f"Error: {str(err) or type(err).__name__}", file=sys.stderr)
        raise SystemExit(2) from err


def _parser():
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--out", type=Path, required=True,
        help="folder for runs, results.csv, results.json, figures and report.md")  # fmt: skip
    add("--preset", choices=tuple(PRESETS), default="small", help="how large (default: small)")
    add("--anatomies", type=Path,
        help="folder of label maps of heads to simulate in; the last 4 are for testing only")  # fmt: skip
    add("--manifest", type=Path,
        help="train and test on these tumors (one row per tumor) instead of simulated ones")  # fmt: skip
    add("--stacks", type=Path,
        help="real scans (one row per scan or per tumor) to test on, never to train on")  # fmt: skip
    add("--dates", type=Path,
        help="real scans with masks, some patients at two dates, for tests that need no labels")  # fmt: skip
    add("--only", type=_names, help="experiments, such as table3,fig4 (default: all of the preset)")
    add("--no-training", action="store_true", help="make tables and figures of the runs that are there")
    add("--n-jobs", type=int, default=2,
        help="processes that simulate, threads that prepare scans (default: 2)")  # fmt: skip
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _names(text):
    """Return ``a,b`` as a list of names, or None without any."""
    return [name.strip() for name in text.split(",") if name.strip()] or None


if __name__ == "__main__":
    main()
