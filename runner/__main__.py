"""The program: compose, check, call the mode. The only place where exceptions become text and exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from runner.compose import (
    cannot_compose,
    compose_leniently,
    conf_directory,
    page_of,
    to_tree,
    with_saved,
)
from runner.config import Config, Invocation
from runner.errors import ConfigError, Problem, RunnerError
from runner.records import RunResult

EXIT_CODES = {"finished": 0, "diverged": 3, "failed": 1}


def main() -> int:
    """Run the program with the arguments of the command line; return its exit code.

    0 finished, 1 failed, 2 the configuration is refused, 3 diverged, 128 + n stopped by signal n.
    """
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print and exit by itself
    # threads that spin while they wait make a run up to 30 times slower when anything else uses the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
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
        try:
            job()
        except Exception as error:
            _rewrite_or_refuse(error)
            job()
    except RunnerError as refusal:
        errors.append(refusal)
    except KeyboardInterrupt:
        if not results:
            print("interrupted before training began", file=sys.stderr)
            return 130
    if wants_traceback and errors:
        raise errors[0]
    codes = [report(error) for error in errors]
    return exit_code(results) if results else max(codes, default=0)


def run(composed: DictConfig) -> RunResult | None:
    """Check one composed configuration and call its mode."""
    hydra_config = HydraConfig.get()
    overrides = tuple(text.lstrip("+") for text in hydra_config.overrides.task)
    tree, choices = with_saved(to_tree(composed), overrides, hydra_config.runtime.choices)
    config = checked(tree)
    tree = config.model_dump(mode="json", by_alias=True)
    mode = hydra.utils.get_method(config.mode.target)
    sweep = Path(hydra_config.sweep.dir).name if hydra_config.mode is RunMode.MULTIRUN else None
    invocation = Invocation(overrides, choices, tree, Path.cwd(), sweep, page_of(sys.argv[1:]))
    result: RunResult | None = mode(config, invocation, **config.mode.arguments)
    return result


def checked(tree: dict[str, Any], problems: tuple[Problem, ...] = ()) -> Config:
    """Return the checked configuration, or raise ConfigError with everything wrong in it."""
    from runner.check import check

    def find_facts(*arguments: Any) -> Any:
        from runner.build import find_facts  # imports torch

        return find_facts(*arguments)

    return check(tree, find_facts=find_facts, problems=problems)


def report(error: Exception) -> int:
    """Print an error as a person wants it, and return its exit code."""
    if isinstance(error, RunnerError):
        print(error, file=sys.stderr)
        return error.exit_code
    frame = traceback.extract_tb(error.__traceback__)[-1]
    print(f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})", file=sys.stderr)
    print("Set HYDRA_FULL_ERROR=1 to see the traceback.", file=sys.stderr)
    return 1


def _rewrite_or_refuse(error: Exception) -> None:
    """Deal with a command line that Hydra could not compose.

    Hydra wants a + before every key that the page lacks; where that is all, the command line is rewritten.

    Raises:
        RunnerError: with all that is wrong with it.
    """
    arguments = sys.argv[1:]
    try:
        tree, problems, overrides = compose_leniently(arguments)
        checked(with_saved(tree, [text.lstrip("+") for text in overrides], {})[0], problems)
    except RunnerError:
        raise
    except Exception as other:
        raise ConfigError([cannot_compose(other)]) from None
    accepted = {text.lstrip("+"): text for text in overrides}
    sys.argv[1:] = [accepted.get(text.lstrip("+"), text) for text in arguments]
    if sys.argv[1:] == arguments:
        raise ConfigError([cannot_compose(error)]) from None


def exit_code(results: list[RunResult | None]) -> int:
    """Return 0 when any job finished, 3 when all diverged, 128 + n after signal n, otherwise 1."""
    ran = [result for result in results if result is not None]
    signals = [result.signal for result in ran if result.signal is not None]
    if signals:
        return 128 + signals[-1]
    return min((EXIT_CODES.get(result.status, 1) for result in ran), default=0) if ran else 0


if __name__ == "__main__":
    sys.exit(main())
