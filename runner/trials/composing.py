"""Many configurations of one page: Hydra is set up once, and options are composed once for all that share them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from runner.compose import set_up


def composer(page: Sequence[str]) -> Callable[[Sequence[str]], DictConfig]:
    """Return what composes overrides on a page; of Hydra's own section the choices are there.

    It gives what Hydra does, which chooses the options first and then sets values: the first is done once for all that
    agree in it, the second by the same function of Hydra's. Unknown keys stay in what it returns, as in
    `compose_leniently`; an option that is none makes it raise.

    Args:
        page: `--config-dir` and `--config-name` as given.
    """
    parsed = get_args_parser().parse_args(list(page))
    with set_up(parsed.config_dir):
        hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    loader: Any = hydra.config_loader
    is_group = functools.cache(lambda group: bool(loader.repository.get_group_options(group, ObjectType.CONFIG)))
    parser = OverridesParser.create()

    def whole(texts: Sequence[str]) -> DictConfig:
        name = parsed.config_name or "config"
        found: DictConfig = loader.load_configuration(config_name=name, overrides=list(texts), run_mode=RunMode.RUN)
        return found

    @functools.cache
    def of_options(options: tuple[str, ...]) -> DictConfig | None:
        """Return the page with these options, None where it looks into Hydra's section, which names all overrides."""
        config = whole(options)
        choices = dict(config.hydra.runtime.choices)
        with open_dict(config):
            config.hydra = {"runtime": {"choices": choices}}
        return None if "${hydra" in str(OmegaConf.to_container(config, resolve=False)) else config

    def compose(overrides: Sequence[str]) -> DictConfig:
        read = [(text, parser.parse_override(text)) for text in overrides]
        options = tuple(text for text, override in read if is_option(override))
        values = [_forced(text, override) for text, override in read if not is_option(override)]
        base = of_options(options)
        if base is None or any(override.is_sweep_override() for _, override in read):
            return whole([*options, *values])
        config = copy.deepcopy(base)
        ConfigLoaderImpl._apply_overrides_to_config(parser.parse_overrides(values), config)
        return config

    def is_option(override: Override) -> bool:
        return override.is_hydra_override() or is_group(override.key_or_group)

    return compose


def _forced(text: str, override: Override) -> str:
    """Return an override that also adds a key that the page lacks."""
    return text if override.is_delete() else f"++{text.lstrip('+')}"
