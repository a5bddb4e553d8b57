"""What a searching multirun is about: what varies, and what every trial has in common."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydra.types import HydraContext
from omegaconf import DictConfig

from runner.compose import page_of
from runner.errors import ConfigError, Problem
from runner.search.custom import extend_by
from runner.search.opening import Extend
from runner.search.options import SECTION, SearchOptions
from runner.search.space import Space, corners, read_space, split_overrides
from runner.sweeps.check import CheckedJob, Compose, Point, check_all, check_job


@dataclass(frozen=True)
class SearchPage:
    """What every trial has in common.

    Attributes:
        fixed: overrides.
        space: what varies.
        extend: a function of the user's that has more vary.
        base: the first end of every dimension, checked.
        compose: overrides -> what Hydra composes.
        words: `--config-dir` and `--config-name` as given.
    """

    fixed: Sequence[str]
    space: Space
    extend: Extend | None
    base: CheckedJob
    compose: Compose
    words: tuple[str, ...]

    def check(self, overrides: Mapping[str, str]) -> CheckedJob:
        """Compose and check one trial.

        Raises:
            ConfigError: it is refused.
        """
        return check_job(_point(self.fixed, self.space, overrides), self.compose, self.words)


def read_page(
    arguments: list[str],
    context: HydraContext,
    config: DictConfig,
    options: SearchOptions,
    *,
    words: tuple[str, ...] | None,
) -> SearchPage:
    """Read what varies, and check the ends of the space.

    Raises:
        ConfigError: with all that is wrong.
    """

    def compose(overrides: Sequence[str]) -> DictConfig:
        return context.config_loader.load_sweep_config(config, list(overrides))

    fixed, varying = split_overrides(arguments, config_loader=context.config_loader)
    _refuse_of_mode_search([*fixed, *varying])
    space = read_space(varying, config_loader=context.config_loader)
    extend = extend_by(options.custom_search_space, config, fixed, key=f"{SECTION}.custom_search_space")
    if not space and extend is None:
        rule = "must have something vary in a search, got nothing that does"
        raise ConfigError([Problem(f"{SECTION}.params", rule, "Add for example 'optimizer.lr=interval(1e-5,1)'")])
    words = page_of(sys.argv[1:]) if words is None else words
    points = [_point(fixed, space, corner) for corner in corners(space)]
    base = check_all(points, compose, words)[0]
    if not base.config.mode.makes_run:
        raise ConfigError([Problem("mode", "must be train in a search", "Leave it out")])
    return SearchPage(fixed, space, extend, base, compose, words)


def _refuse_of_mode_search(arguments: Sequence[str]) -> None:
    """Refuse what only mode=search reads.

    Raises:
        ConfigError: some is given.
    """
    problems = []
    for text in arguments:
        key, _, value = text.lstrip("+").partition("=")
        section, _, rest = key.partition(".")
        if section in ("search", "sampler", "pruner"):
            fix = _instead(section, rest, value)
            problems.append(Problem(key, f"must be left to mode=search, got {value}", fix))
    if problems:
        raise ConfigError(problems)


def _instead(section: str, rest: str, value: str) -> str:
    """Return what a search says in place of a key of mode=search."""
    if section != "search":
        return f"Set {SECTION}.{section}.{rest}={value}" if rest else f"Set hydra/sweeper/{section}={value}"
    if rest in SearchOptions.model_fields:
        return f"Set {SECTION}.{rest}={value}"
    return (
        "Say it in what varies, such as 'optimizer.lr=interval(1e-5,1)'" if rest in ("low", "high") else "Leave it out"
    )


def _point(fixed: Sequence[str], space: Space, overrides: Mapping[str, str]) -> Point:
    prefixes = {key: space[key].prefix if key in space else "" for key in overrides}
    texts = [f"{prefixes[key]}{key}={value}" for key, value in overrides.items()]
    return Point((*(text for text in fixed if text.lstrip("+").partition("=")[0] not in overrides), *texts), overrides)
