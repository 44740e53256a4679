"""A Dask cluster on loopback."""

import contextlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator

from . import PATIENCE_SECONDS, ROOT


@contextlib.contextmanager
def dask_cluster(folder: pathlib.Path, workers: int, *options: str) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A scheduler and worker processes, for a ``with`` block: its address, and the workers.

    Args:
        folder: an empty directory, for what they write.
        workers: how many.
        options: of each worker.
    """
    address = folder / "scheduler.json"
    processes = []

    def start(*arguments: str) -> None:
        command = [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]]
        output = subprocess.DEVNULL
        processes.append(subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT))

    start("dask_scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard", f"--scheduler-file={address}")
    try:
        for _ in range(workers):
            more = ["--nthreads=1", "--no-dashboard", f"--local-directory={folder}", *options]
            start("dask_worker", f"--scheduler-file={address}", *more)
        import distributed

        with distributed.Client(scheduler_file=str(address), timeout=PATIENCE_SECONDS) as client:
            client.wait_for_workers(workers, timeout=PATIENCE_SECONDS)
            yield client.scheduler.address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
