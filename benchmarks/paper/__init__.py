"""The paper's experiments as a benchmark: cached runs, one protocol, tidy tables, a report."""

from benchmarks.paper._benchmark import run_benchmark
from benchmarks.paper._presets import EXPERIMENTS, PRESETS, Preset

__all__ = ["EXPERIMENTS", "PRESETS", "Preset", "run_benchmark"]
