"""Tests on real scans that need no labels: controls, perturbations, other dates, transplants and mirrors."""

from benchmarks.label_free._controls import head_center, mirrored_box, untrained_copy
from benchmarks.label_free._dates import evaluate_other_date
from benchmarks.label_free._mirror import evaluate_mirror, mirrored_content
from benchmarks.label_free._pattern import enhancement_pattern, evaluate_pattern
from benchmarks.label_free._perturb import PERTURBATIONS, perturb
from benchmarks.label_free._plot import plot_box_robustness
from benchmarks.label_free._sites import evaluate_across_datasets, evaluate_site_probe
from benchmarks.label_free._stability import evaluate_rescan, evaluate_stability
from benchmarks.label_free._transplant import evaluate_transplant, transplant

__all__ = [
    "PERTURBATIONS",
    "enhancement_pattern",
    "evaluate_across_datasets",
    "evaluate_mirror",
    "evaluate_other_date",
    "evaluate_pattern",
    "evaluate_rescan",
    "evaluate_site_probe",
    "evaluate_stability",
    "evaluate_transplant",
    "head_center",
    "mirrored_box",
    "mirrored_content",
    "perturb",
    "plot_box_robustness",
    "transplant",
    "untrained_copy",
]
