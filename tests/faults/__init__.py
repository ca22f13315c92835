"""Damaged files for every reader, drawn from a seed: `python -m tests.faults READER --n 100000`."""
