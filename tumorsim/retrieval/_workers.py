"""Scans of an archive, embedded by this process, by several of this machine, or by a Dask cluster."""

import contextlib
import copy
import multiprocessing
import signal
from itertools import islice
from multiprocessing.connection import wait
from multiprocessing.pool import ExceptionWithTraceback

import numpy as np
import torch

from tumorsim._validation import import_extra
from tumorsim.retrieval._measured import embed_measured

_DASK_SCANS = 8  # per task: the scheduler needs about a millisecond for each
_MOST_DEATHS = 3  # of workers in a row, without a scan done between them


def embed_scans(embedder, scans):
    """Return of each scan (a Cohort) its embeddings, made on one thread of torch, or what a bad one raises.

    They are float64 (n_tumors, n_features + 11). The column after the features is 1 where the model was
    trained on the scan, 0 where not, NaN where that is unknown; then come measures (`embed_measured`).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # so that bytes do not depend on the machine's cores
    try:
        return [_embed(embedder, tumors) for tumors in scans]
    finally:
        torch.set_num_threads(before)


def embed_each(embedder, scans, *, workers=None, dask=None):
    """Yield (key, embeddings or exception) of scans (key, Cohort), as they are done.

    `scans` is read as far as workers are free: processes of this machine, a scan each; those of the Dask
    scheduler at the address `dask`, 8 scans each; else this process. What a worker that died had in hand is
    done again; RuntimeError where several died and no scan was done between.
    """
    scans = iter(scans)
    if dask is not None:
        yield from _by_dask(embedder, scans, dask)
    elif workers is None:
        step = 4 * int(getattr(embedder, "n_jobs", 1))  # scans at once, so that its threads stay busy
        while part := list(islice(scans, step)):
            yield from zip([key for key, _ in part], _embed_part(embedder, part), strict=True)
    else:
        yield from _by_processes(embedder, scans, workers)


def _embed(embedder, tumors):
    """Return the columns of `embed_scans` of tumors, or why there are none."""
    try:
        X, trained, measures = embed_measured(embedder, tumors)
        return np.column_stack([X, np.full(len(X), np.nan if trained is None else trained), measures])
    except (OSError, ValueError) as err:
        return err


def _embed_part(embedder, part):
    """Return embeddings or an exception per scan of a part [(key, Cohort)], which is embedded at once."""
    together = _embed(embedder, type(part[0][1])(tumor for _, tumors in part for tumor in tumors))
    if isinstance(together, Exception):
        return [_embed(embedder, tumors) for _, tumors in part]
    return np.split(together, np.cumsum([len(tumors) for _, tumors in part])[:-1])


def _by_processes(embedder, scans, workers):
    """Yield as `embed_each`, from processes of this machine; each has its own pipe and a scan in hand."""
    context, again, ready, deaths = multiprocessing.get_context("spawn"), [], [], 0
    idle, busy = [], {}  # (pipe, process) without a scan; pipe → process, scan
    try:
        while True:
            while len(busy) < workers and (scan := again.pop() if again else next(scans, None)):
                pipe, process = idle.pop() if idle else _hire(context, embedder)
                busy[pipe] = process, scan
                with contextlib.suppress(OSError):  # it has died, which its end of the pipe says below
                    pipe.send(scan[1])
            yield from ready  # workers have their next scans by now
            ready = []
            if not busy:
                return
            for pipe in wait(list(busy)):
                process, scan = busy.pop(pipe)
                try:
                    ready.append((scan[0], pipe.recv()))
                    idle.append((pipe, process))
                    deaths = 0
                except (EOFError, OSError) as err:
                    pipe.close()
                    again.append(scan)
                    deaths += 1
                    if deaths == _MOST_DEATHS:
                        what = f"Workers died {deaths} times, the last at scan '{scan[1][0].case.case_id}'."
                        likely = "Most often memory is too small: give fewer --workers, or look at this scan."
                        raise RuntimeError(f"{what} {likely}") from err
    finally:
        crew = idle + [(pipe, process) for pipe, (process, _) in busy.items()]
        for pipe, _ in crew:
            pipe.close()  # on which a process ends, and gives back the system's semaphores that it holds
        for _, process in crew:
            process.join(2)  # seconds
            process.terminate()  # it may still be importing; nothing is written there but by renaming
            process.join()


def _hire(context, embedder):
    """Return a pipe to a new worker, and its process."""
    pipe, other = context.Pipe()
    process = context.Process(target=_work, args=(other, embedder), daemon=True)
    with contextlib.suppress(BrokenPipeError):  # killed at once
        process.start()
    other.close()
    return pipe, process


def _work(pipe, embedder):
    """Embed what comes, until the pipe's other end is closed; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        while True:
            tumors = pipe.recv()
            try:
                result = embed_scans(embedder, [tumors])[0]
            except Exception as err:
                result = err
            if isinstance(result, Exception):
                result = ExceptionWithTraceback(result, result.__traceback__)
            pipe.send(result)


def _by_dask(embedder, scans, address):
    """Yield as `embed_each`, from the workers of a Dask scheduler; it redoes what a lost one had in hand."""
    distributed = import_extra("distributed", "--dask", "dask")
    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
        # a task, not scattered: it survives its worker
        shared = client.submit(copy.copy, embedder, pure=False)
        keys, flying = {}, distributed.as_completed(loop=client.loop)

        def send(n_parts):
            for _ in range(n_parts):
                if part := list(islice(scans, _DASK_SCANS)):
                    task = client.submit(embed_scans, shared, [tumors for _, tumors in part], pure=False)
                    keys[task.key] = [key for key, _ in part]
                    flying.add(task)

        send(2 * sum(client.ncores().values()))
        for task in flying:
            results = task.result()
            send(1)
            yield from zip(keys.pop(task.key), results, strict=True)
