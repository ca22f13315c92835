"""Resamples of patients, the same for all who ask with one seed, and the intervals that they give."""

import numpy as np

__all__ = ["N_RESAMPLES", "interval", "patient_weights"]

N_RESAMPLES = 1_000


def patient_weights(patients, random_state, n_resamples=N_RESAMPLES):
    """Return how often queries count, (1 + n_resamples, n_queries): once each, then patients redrawn."""
    _, patient = np.unique(patients.astype(str), return_inverse=True)
    n = patient.max() + 1
    drawn = np.random.default_rng(random_state).multinomial(n, np.full(n, 1 / n), size=n_resamples)
    return np.vstack([np.ones(n), drawn])[:, patient]


def interval(values):
    """Return value, ci_low and ci_high of a statistic whose first entry is the sample's own."""
    defined = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(defined, (2.5, 97.5)) if len(defined) else (np.nan, np.nan)
    return {"value": float(values[0]), "ci_low": float(low), "ci_high": float(high)}
