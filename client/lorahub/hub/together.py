"""Several pieces of work at once; the first failure, or Ctrl-C, ends them all."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

AT_ONCE = 4


def run_all(acts: Sequence[Callable[[], None]]) -> None:
    """Raises the first failure, once the work that has begun is at its end; work that hasn't is dropped.

    Ctrl-C waits for nothing.
    """
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        jobs = [pool.submit(act) for act in acts]
        done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
        for job in done:
            job.result()
    except BaseException as failure:
        pool.shutdown(wait=isinstance(failure, Exception), cancel_futures=True)
        raise
    pool.shutdown()
