"""The program: compose, check, call the mode. The only place where exceptions become text and exit codes."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from runner.errors import ConfigError, RunnerError, SweepError, in_words
from runner.records import RunResult
from runner.tracking.streams import keep_streams
from runner.train.interrupt import catch_early

if TYPE_CHECKING:
    from omegaconf import DictConfig

EXIT_CODES = {"finished": 0, "diverged": 3, "failed": 1}


def main() -> int:
    """Run the program with the arguments of the command line; return its exit code.

    0 finished, 1 failed, 2 the configuration is refused, 3 diverged, 128 + n stopped by signal n.
    """
    keep_streams()
    catch_early()
    # looking for cycles among all that is imported, and once more at the end, takes longer than to compose a page
    gc.set_threshold(50_000, 20, 100)  # until `job.run` begins
    atexit.register(gc.freeze)
    try:
        return _run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run() -> int:
    # imported here because that takes a while, in which Ctrl-C may come
    import hydra

    from runner.compose import composed_once, options_first, with_source_path
    from runner.job import run
    from runner.nodes import conf_directory
    from runner.search.chosen import with_sampler
    from runner.sweeps.resume import expand_resumed_sweep

    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print and exit by itself
    # threads that spin while they wait make a run up to 30 times slower when anything else uses the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _extend_path()
    results: list[RunResult | None] = []
    errors: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(conf_directory()), config_name="config")
    def job(config: DictConfig) -> None:
        try:
            results.append(run(config))
        except Exception as error:  # Hydra would print it in its own way
            errors.append(error)
        if results and results[-1] is not None and results[-1].signal is not None:
            raise KeyboardInterrupt  # ends a multirun too

    try:
        sys.argv[1:] = with_sampler(with_source_path(expand_resumed_sweep(options_first(sys.argv[1:]))))
        with composed_once(sys.argv[1:]):
            try:
                job()
            except RunnerError:
                raise
            except Exception as error:
                _rewrite_or_refuse(error)
                _again(job)
    except RunnerError as refusal:
        errors.append(refusal)
    except KeyboardInterrupt:
        if not results:
            raise
    if wants_traceback and errors and not (isinstance(errors[0], SweepError) and errors[0].__cause__ is None):
        raise errors[0]
    codes = [report(error) for error in errors]
    return exit_code(results) if results else max(codes, default=0)


def _extend_path() -> None:
    """Make the user's own modules importable, as `python -m runner` does by itself and the console script does not."""
    here = os.getcwd()
    if not {"", here} & set(sys.path):
        sys.path.insert(0, here)


def report(error: Exception) -> int:
    """Print an error as a person wants it, and return its exit code."""
    from runner.tracking.address import shown

    print(shown(in_words(error)), file=sys.stderr)  # an override that is refused may hold a password
    if isinstance(error, RunnerError):
        return error.exit_code
    print("Set HYDRA_FULL_ERROR=1 to see the traceback.", file=sys.stderr)
    return 1


def _rewrite_or_refuse(error: Exception) -> None:
    """Deal with a command line that Hydra could not compose.

    Hydra wants a + before every key that the page lacks; where that is all, the command line is rewritten.

    Raises:
        RunnerError: with all that is wrong with it.
    """
    from runner.compose import cannot_compose, compose_leniently, is_multirun, page_of
    from runner.continue_run import with_saved
    from runner.job import checked

    arguments = sys.argv[1:]
    try:
        tree, problems, overrides = compose_leniently(arguments)
        if problems or not is_multirun(arguments):  # the jobs of a multirun are checked one by one
            plain = [text.lstrip("+") for text in overrides]
            checked(with_saved(tree, plain, {}, page=page_of(arguments))[0], problems)
    except RunnerError:
        raise
    except Exception as other:
        raise ConfigError([cannot_compose(other)]) from None
    accepted = {text.lstrip("+"): text for text in overrides}
    sys.argv[1:] = [accepted.get(text.lstrip("+"), text) for text in arguments]
    if sys.argv[1:] == arguments:
        raise ConfigError([cannot_compose(error)]) from None


def _again(job: Callable[[], None]) -> None:
    """Call the program with its command line rewritten.

    Raises:
        RunnerError: Hydra does not compose that either.
    """
    from runner.compose import cannot_compose

    try:
        job()
    except RunnerError:
        raise
    except Exception as error:
        raise ConfigError([cannot_compose(error)]) from None


def exit_code(results: list[RunResult | None]) -> int:
    """Return 0 when any job finished, 3 when all diverged, 128 + n after signal n, otherwise 1."""
    ran = [result for result in results if result is not None]
    signals = [result.signal for result in ran if result.signal is not None and result.status == "interrupted"]
    if signals:
        return 128 + signals[-1]
    return min((EXIT_CODES.get(result.status, 1) for result in ran), default=0) if ran else 0


if __name__ == "__main__":
    sys.exit(main())
