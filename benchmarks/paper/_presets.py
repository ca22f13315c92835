"""Sizes of the benchmark as plain data."""

from dataclasses import dataclass, field

__all__ = ["EXPERIMENTS", "LOCALIZATION", "PRESETS", "Preset"]

LOCALIZATION = ("region", "hemisphere", "front_rear", "upper_lower")

# in the order in which they are trained; those of the last line train nothing of their own
EXPERIMENTS = (
    "table3", "table4", "table2", "missing_labels", "cohort_size", "contrastive", "baselines",
    "finetune",
    "fig4", "fig5", "fig6", "real", "sites", "label_free",
)  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """How large a benchmark is.

    Attributes
    ----------
    n_patients : int
        Simulated patients, a fifth of them for testing.
    scan_spacing : float
        Voxel edge of simulated scans in mm.
    parameters : dict
        Of `TumorEmbedder` for every network, where an experiment does not say otherwise.
    paper_recipe : bool
        Whether other parameters are those of `TumorEmbedder.paper`.
    seeds : dict of int
        Experiment → number of networks from different seeds; others have one.
    channels, drops, sizes : tuple
        Of table2, missing_labels and cohort_size; sizes are patients that are trained on.
    scales, shifts : tuple of float
        Of table4: factors of a box's sides, and by what share of its sides it is moved.
    weights : str
        Of finetune: pretrained weights that know neither the test patients nor the real scans.
    tuning : dict
        Of finetune: parameters that say how long it trains; others are those of the weights.
    tuned_sizes : tuple of int
        Of finetune: patients that are trained on.
    n_untrained : int
        Of label_free: untrained networks that it compares with.
    n_resamples : int
        Of the bootstrap over patients.
    baselines : tuple of str, optional
        Those that it compares with; default all that are known.
    experiments : tuple of str
        Those that it runs.
    """

    n_patients: int
    scan_spacing: float
    parameters: dict
    paper_recipe: bool = False
    seeds: dict = field(default_factory=dict)
    channels: tuple = (8, 16, 24, 32)
    drops: tuple = (0.1, 0.5, 0.9)
    sizes: tuple = (25, 75, 150)
    scales: tuple = (0.6, 0.8, 1.0, 1.25, 1.5)
    shifts: tuple = (0.0, 0.25, 0.5)
    weights: str = "t1c-v6-simulated"
    tuning: dict = field(
        default_factory=lambda: {
            "batch_size": 4, "max_epochs": 10, "batches_per_epoch": 50, "precision": "bfloat16",
        }
    )  # fmt: skip
    tuned_sizes: tuple = (25, 75)
    n_untrained: int = 8
    n_resamples: int = 1_000
    baselines: tuple | None = None
    experiments: tuple = EXPERIMENTS


PRESETS = {
    "smoke": Preset(
        n_patients=30,
        scan_spacing=4.0,
        parameters={
            "spacing": 4.0, "patch_size": 32, "n_channels": 8, "n_blocks": 1, "batch_size": 2,
            "max_epochs": 2, "batches_per_epoch": 6,
        },
        channels=(4, 8),
        drops=(0.5,),
        sizes=(8,),
        scales=(0.8, 1.0, 1.25),
        shifts=(0.0, 0.25),
        tuning={"patch_size": 32, "batch_size": 2, "max_epochs": 1, "batches_per_epoch": 2},
        tuned_sizes=(8,),
        n_untrained=2,
        baselines=("random", "volume_place", "intensity"),
    ),
    "small": Preset(
        n_patients=500,
        scan_spacing=2.0,
        parameters={
            "spacing": 3.0, "patch_size": 48, "n_channels": 16, "n_blocks": 5, "batch_size": 4,
            "max_epochs": 10, "batches_per_epoch": 50, "precision": "bfloat16",
        },
        seeds={"table3": 3},
    ),
    "paper": Preset(
        n_patients=1_334,
        scan_spacing=1.5,
        parameters={"n_channels": 64},
        paper_recipe=True,
        seeds={"table2": 3, "table3": 3, "table4": 3},
        channels=(16, 32, 64, 96),
        sizes=(25, 50, 100, 200, 400),
        tuning={"batch_size": 4, "max_epochs": 30, "batches_per_epoch": 100, "precision": "bfloat16"},
        tuned_sizes=(25, 100, 400),
        n_resamples=2_000,
    ),
}  # fmt: skip
