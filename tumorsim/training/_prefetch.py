"""The one prefetch: results computed in threads before they are needed, in order and few at a time."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
from tqdm import tqdm

from tumorsim.nn import process_rank

__all__ = ["prefetch", "prefetch_scans"]


def prefetch(make, items, *, n_jobs, torch_threads=None):
    """Yield ``make(item)`` in order, computed in threads; at most ``n_jobs + 1`` results wait at once.

    Order and content do not depend on the number of threads. Close the generator to stop early. In each of
    them torch uses `torch_threads` of its own; None: as elsewhere.
    """
    before = torch.get_num_threads()
    initializer = None if torch_threads is None else torch.set_num_threads
    pool = ThreadPoolExecutor(n_jobs, initializer=initializer, initargs=(torch_threads,))
    coming = iter(items)
    try:
        waiting = deque(pool.submit(make, item) for item in islice(coming, n_jobs + 1))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(make, item) for item in islice(coming, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if torch_threads is not None:
            torch.set_num_threads(before)  # of threads to come, too


def prefetch_scans(make, scans, *, n_jobs, description, verbose):
    """Iterate over ``make(scan)`` in order through `prefetch`, with a progress bar if `verbose`."""
    hidden = (
        None if verbose and len(scans) > 1 and process_rank() == 0 else True
    )  # None: hidden where there is no terminal
    made = prefetch(make, scans, n_jobs=n_jobs)
    return tqdm(made, description, total=len(scans), unit="scan", disable=hidden)
