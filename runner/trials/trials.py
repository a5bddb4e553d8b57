"""Evaluate: points in, what came of them out. Every trial is a recorded run, all of them are one sweep."""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from signal import Signals
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from runner.commands import PROGRAM
from runner.config import Config, Invocation
from runner.errors import ConfigError, Problem
from runner.finding.observed import Observed
from runner.search.page import page_of_task
from runner.search.trials import OnEval
from runner.sweeps.course import given_overrides, new_sweep
from runner.sweeps.place import alone, new_directory, reopened
from runner.sweeps.resume import KEY
from runner.sweeps.signals import caught
from runner.tracking.directory import ROOT
from runner.tracking.stderr import gathered_stderr
from runner.tracking.sweep_file import STOP, Job, JobState, Sweep, write_sweep
from runner.tracking.sweep_observed import LR_KEYS, Stand, lr_key, observe_job
from runner.tracking.sweep_runs import DONE, SweepRuns, with_errors
from runner.tracking.sweep_table import SweepTable
from runner.train.interrupt import raise_early
from runner.trials.backends import Backend, backend_of
from runner.trials.trial import Batch, Trial, trial_invocation

if TYPE_CHECKING:
    from runner.lr_end import Told
    from runner.search.opening import Plan
    from runner.sweeps.check import CheckedJob

_Key = tuple[tuple[str, str], ...]


class Trials:
    """The trials of one sweep, made batch by batch; a context, of which the end lets others into its directory.

    A point that was asked for before, in this launch or in the one that it goes on with (`resume.sweep`), runs only
    where its run is not done, and then goes on with it.

    Args:
        config: checked, of the mode that asks; `sweep.backend`, `sweep.jobs` and `sweep.lanes` say how runs are made.
        invocation: how the program was called; the trials get what it says of them.
        mode: what makes the sweep, for sweep.json.
    Attributes:
        directory: of the sweep; there are files in it once a batch is checked.
        signal: that has ended it, None while none has come.
    """

    def __init__(self, config: Config, invocation: Invocation, *, mode: str) -> None:
        from runner.trials.beside import Beside
        from runner.trials.enlist import Page

        self._config = config
        self._invocation = invocation
        self._beside = Beside(config.tracking)
        self._backend: Backend = backend_of(config, self._beside)
        self._page = Page(invocation, share=self._backend.share)
        self._errors: dict[int, str] = {}
        self._closing, self._catching = ExitStack(), ExitStack()
        self._closing.callback(self._backend.close)
        self._closing.callback(self._beside.close)
        self._sweep: Sweep | None = None
        resumed = config.resume.sweep
        self.directory = Path(resumed) if resumed is not None else _place()
        self._mode = mode
        if resumed is not None:
            with ExitStack() as opened:  # ends at once where it is refused
                self._sweep = self._resumed(opened.enter_context(reopened(self.directory)))
                self._closing.enter_context(opened.pop_all())
            self._begin()
        self._jobs = {_key(job.varied): job for job in self._sweep.jobs} if self._sweep is not None else {}
        self._earlier, self._made = frozenset(self._jobs), set[_Key]()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._catching.close()
        self._closing.close()

    def _begin(self) -> None:
        """From here on a signal ends the sweep in good order, between batches too."""
        raise_early()
        self._beside.log_to(self.directory)
        self._catching.enter_context(caught(self.directory / STOP, pass_on=self._backend.pass_on))

    @property
    def signal(self) -> Signals | None:
        """The signal after which nothing starts any more."""
        stop = self.directory / STOP
        return Signals(int(stop.read_text(encoding="utf-8"))) if stop.exists() else None

    def __call__(self, points: Sequence[Mapping[str, str]], *, on_eval: OnEval | None = None) -> list[Observed]:
        """Make the runs of points, and return what came of them, in the same order.

        A trial that fails or diverges is told like any other; after a signal, those that have not run are "waiting".

        Args:
            points: settings of the page, dotted key -> value as on the command line.
            on_eval: is asked after each evaluation whether the trial is given up.
        Raises:
            ConfigError: with all that is wrong with any of them; none has started.
        """
        keys = [_key(point) for point in points]
        by_key = dict[_Key, Mapping[str, str]]()
        for key, point in zip(keys, points, strict=True):
            by_key.setdefault(key, point)
        fresh = {key: point for key, point in by_key.items() if key not in self._jobs}
        checked = self._page.check(list(fresh.values()))
        self._backend.prepare([one.config for one in checked])
        jobs, checked = self._page.enlist(checked, len(self._jobs) + 1)
        sweep = self._grow(jobs)
        self._jobs |= zip(fresh, jobs, strict=True)
        runs = SweepRuns(sweep, Path.cwd())
        ready = dict(zip(fresh, checked, strict=True)) | self._left(sweep, by_key, runs.states())
        self._made |= ready.keys()
        trials = [self._trial(keys.index(key), self._jobs[key], one) for key, one in ready.items()]
        self._run(sweep, runs, trials, on_eval)
        states, lr, jobs = self._states(runs), lr_key(sweep) or LR_KEYS[0], [self._jobs[key] for key in keys]
        return [observe_job(job, states[job.number - 1], Path.cwd(), key=lr) for job in jobs]

    def open(self) -> None:
        """Make the directory of the sweep, where there is none yet, and keep others out of it.

        Raises:
            ConfigError: it cannot be made.
        """
        self._grow(())

    def check(self, points: Sequence[Mapping[str, str]]) -> list[CheckedJob]:
        """Compose and check points without making a run.

        Raises:
            ConfigError: with all that is wrong with any of them.
        """
        return self._page.check(points)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Overrides that all trials have."""
        return self._page.base

    def page_of(self, overrides: Mapping[str, str]) -> Mapping[str, str]:
        """Return what the page of a point says of the task, for comparing it with that of an earlier run.

        Raises:
            ConfigError: it is refused.
        """
        [checked] = self.check([overrides])
        return page_of_task(checked.config.model_dump(mode="json", by_alias=True))

    @property
    def experiment(self) -> str:
        """MLflow experiment and folder of the runs."""
        return self._config.name or self._invocation.choices["task"]

    def finish(self, use: Callable[[Told | None], None] | None = None, *, study: Plan | None = None) -> None:
        """Write and print what came of all trials, the directory of the sweep last.

        Args:
            use: is called with what was told of the learning rates, before the directory is printed.
            study: that they are trials of; others may have made all of it.
        Raises:
            SweepError: none has finished, a signal ended it, or it cannot be written.
        """
        from runner.sweeps.end import cut_short, finish

        assert self._sweep is not None, "no batch was made"
        states = self._states(SweepRuns(self._sweep, Path.cwd()))
        config, beside, signal = self._config, self._beside, self.signal
        self._catching.close()  # the next one acts at once
        if config.tracking.uri is None:
            beside.close()
        with cut_short(self.directory):
            finish(
                self.directory,
                self._sweep,
                states,
                tracking=config.tracking,
                signal=signal,
                safety=config.search.safety,
                is_search=self._mode == "search",
                quiet=config.quiet,
                use=use,
                stand=self._stand(study) if study is not None else None,
                follow=beside.follow_last if beside.is_used else None,
            )

    def _stand(self, study: Plan) -> Stand:
        config, invocation = self._config, self._invocation
        job = Job(0, self._page.base, dict.fromkeys(study.space, ""), self.experiment, config.optimizer.lr, config.seed)
        return Stand(job, config.optimizer.lr_key, study.loss, invocation.choices, invocation.tree)

    def _left(self, sweep: Sweep, points: Iterable[_Key], states: Sequence[JobState]) -> dict[_Key, CheckedJob]:
        """Return points of an earlier launch that are not done, to go on with their runs."""
        found = {}
        for key in points:
            state = states[self._jobs[key].number - 1]
            if key in self._earlier - self._made and state.status not in DONE:
                found[key] = self._page.go_on(sweep, self._jobs[key], state)
        return found

    def _run(self, sweep: Sweep, runs: SweepRuns, trials: Sequence[Trial], on_eval: OnEval | None) -> None:
        """Make runs under one table."""
        if not trials or self.signal is not None:
            return
        batch = Batch(self.directory, self._beside, on_eval, self._errors)
        with (
            gathered_stderr(self.directory / "stderr.log") as stderr,
            SweepTable(sweep, lambda: self._now(runs), stderr=stderr, quiet=self._config.quiet),
        ):
            self._backend.run(trials, batch)

    def _now(self, runs: SweepRuns, *, is_over: bool = False) -> list[JobState]:
        return with_errors(runs.states(is_over=is_over), runs.begun(), dict(self._errors))

    def _states(self, runs: SweepRuns) -> list[JobState]:
        return self._now(runs, is_over=True)

    def _trial(self, place: int, job: Job, one: CheckedJob) -> Trial:
        assert self._sweep is not None
        return Trial(place, job, one.config, trial_invocation(one, self._invocation, self._sweep.id))

    def _grow(self, jobs: Sequence[Job]) -> Sweep:
        """Enter jobs in sweep.json, which is made with the first of them."""
        if self._sweep is None:
            self._closing.enter_context(alone(new_directory(self.directory)))
            self._begin()
            self._sweep = new_sweep((), self.directory, self._invocation.page, mode=self._mode)
        if jobs or not self._sweep.jobs:
            self._sweep = replace(self._sweep, jobs=(*self._sweep.jobs, *jobs))
        states = self._states(SweepRuns(self._sweep, Path.cwd()))
        write_sweep(self.directory, self._sweep, states, status="running")
        return self._sweep

    def _resumed(self, runs: SweepRuns) -> Sweep:
        """Return the sweep to go on with.

        Raises:
            ConfigError: it has another mode or other overrides, or its page was another one.
        """
        sweep = runs.sweep
        if sweep.mode != self._mode or sweep.key(sweep.overrides) != sweep.key(given_overrides()):
            rule = f"must be given on the command line, alone, got {str(self.directory)!r}"
            raise ConfigError([Problem(KEY, rule, f"Call {shlex.join([*PROGRAM, f'{KEY}={self.directory}'])}")])
        made = ((job, state.run) for job, state in zip(sweep.jobs, runs.states(), strict=True))
        self._page.refuse_changed(
            next(((job, Path(run)) for job, run in made if run is not None), None), self.directory
        )
        return sweep


def _place() -> Path:
    """Return where a new sweep lies; the directory of a multirun of sweeps is none of theirs."""
    hydra = HydraConfig.get()
    if hydra.mode is RunMode.MULTIRUN:
        return Path(ROOT, "sweeps", f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}")
    return Path(str(hydra.sweep.dir))


def _key(overrides: Mapping[str, str]) -> _Key:
    """Return what tells points apart, numbers however they are written."""
    return tuple(sorted((key, _number(value)) for key, value in overrides.items()))


def _number(text: str) -> str:
    try:
        return repr(float(text))
    except ValueError:
        return text
