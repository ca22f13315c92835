"""The lab: experiments of the paper, baselines, tests that need no labels, and scripts for speed."""
