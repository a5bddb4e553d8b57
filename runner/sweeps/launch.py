"""Jobs handed to Hydra's launcher: one by one or many at once, and again when a worker has taken others with it."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from runner.compose import PLUGINS, quoted
from runner.config import Train
from runner.errors import ConfigError, Problem, in_words
from runner.tracking.sweep_file import Launchable


def launch_all(
    jobs: Sequence[Launchable],
    launcher: Launcher,
    *,
    size: int,
    undone: Callable[[Sequence[Launchable]], tuple[list[Launchable], list[Launchable]]],
    is_stopped: Callable[[], bool],
    errors: dict[int, str],
) -> None:
    """Launch jobs in batches.

    The death of a worker ends its batch. Jobs whose runs had begun are then launched again one by one, the others
    together, or one by one where none had begun: so a job that kills its worker takes no other with it for good.

    Args:
        jobs: in order.
        launcher: Hydra's.
        size: most jobs that are handed over at once.
        undone: returns the jobs of a batch that had begun and are not done, and those that had not begun.
        is_stopped: whether no further job shall start.
        errors: is filled with job number -> why it failed.
    """
    batches = deque(list(jobs[start : start + size]) for start in range(0, len(jobs), size))
    while batches and not is_stopped():
        batch = batches.popleft()
        try:
            returned = launcher.launch([list(one.overrides) for one in batch], initial_job_idx=batch[0].job.number - 1)
        except Exception as error:
            if is_stopped():  # what was interrupted has not failed
                return
            if len(batch) == 1:
                errors[batch[0].job.number] = _told(error)
                continue
            begun, fresh = undone(batch)
            together = [fresh] if begun and fresh else [[one] for one in fresh]
            batches.extendleft(reversed([[one] for one in begun] + together))
            continue
        texts = [str(one._return_value) for one in returned]
        errors |= {one.job.number: text for one, text in zip(batch, texts, strict=True) if text}


def _told(error: Exception) -> str:
    """Return why a launcher failed; of the death of a worker only what it knows, its exit code."""
    if codes := re.search(r"exit codes of the workers are \{([^}]*)\}", str(error)):
        return f"its worker process ended with {codes[1]}, maybe for want of memory"
    return in_words(error)


def make_launcher(context: HydraContext, config: DictConfig, task: TaskFunction) -> Launcher:
    """Return the launcher that the page chooses; workers of Ray find our sweepers, of which Hydra's state speaks."""
    if str(config.hydra.launcher._target_).endswith(".RayLauncher"):
        os.environ["PYTHONPATH"] = os.pathsep.join([PLUGINS, *filter(None, [os.environ.get("PYTHONPATH")])])
    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)


def batch_size(config: DictConfig, jobs: int, most: int | None) -> int:
    """Return how many jobs are launched together: one where they run in this process."""
    return 1 if is_in_this_process(config) else most or max(1, jobs)


def is_in_this_process(config: DictConfig) -> bool:
    """Whether jobs run in this process, one after another."""
    return str(config.hydra.launcher._target_).endswith(".BasicLauncher")


def has_workers(config: DictConfig) -> bool:
    """Whether jobs run in processes of joblib."""
    return str(config.hydra.launcher._target_).endswith(".JoblibLauncher")


def divide_cores(config: DictConfig, jobs: int) -> int | None:
    """Settle how many jobs run at once; return the threads for each, None when they run one by one.

    Raises:
        ConfigError: hydra.launcher.n_jobs is not a number of jobs that this machine can run.
    """
    if not has_workers(config):
        return None
    there, wanted = cores(), int(config.hydra.launcher.n_jobs)
    if not (wanted == -1 or 1 <= wanted <= there):
        rule = f"must be -1 (all cores) or 1 to {there}, the cores of this machine, got {wanted}"
        raise ConfigError([Problem("hydra.launcher.n_jobs", rule, "Set hydra.launcher.n_jobs=-1")])
    at_once = min(there if wanted == -1 else wanted, max(1, jobs))
    config.hydra.launcher.n_jobs = at_once
    return max(1, there // at_once)


def cores() -> int:
    """Return how many cores this process may use."""
    import joblib

    return int(joblib.cpu_count())


class Share(NamedTuple):
    """What of the machine every job gets.

    Attributes:
        threads: CPU threads, where several jobs run at once; None where they run one by one, and each has all.
        gpus: CUDA devices of this machine such as "cuda:0", which the jobs use in turn.
    """

    threads: int | None = None
    gpus: Sequence[str] = ()

    def overrides(self, train: Train, number: int) -> tuple[str, ...]:
        """Return what gives a job its share; nothing where jobs run one by one.

        Args:
            train: what the job declares; what it says itself stays.
            number: of the job.
        """
        if self.threads is None:
            return ()
        of_cores = (f"train.threads={self.threads}",) if train.threads is None else ()
        gets_gpu = len(self.gpus) > 1 and train.device in ("auto", "cuda")
        return (*of_cores, f"train.device={self.gpus[(number - 1) % len(self.gpus)]}") if gets_gpu else of_cores


def settle(config: DictConfig, directory: Path) -> None:
    """Tell the launcher, and the jobs wherever they run, where the sweep lies and to keep quiet."""
    with open_dict(config):
        config.hydra.sweep.dir = str(directory)
        config.hydra.hydra_logging = {
            "version": 1,
            "root": {"level": "WARNING", "handlers": []},
            "disable_existing_loggers": False,
        }
        config.hydra.overrides.hydra += [f"hydra.sweep.dir={quoted(str(directory))}", "hydra/job_logging=none"]
