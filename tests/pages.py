"""The pages of conf/, each parsed and composed once a process: a hundred tests ask for the same ones."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult

from runner.compose import to_tree

CONF = Path(__file__).resolve().parent.parent / "conf"


def composed(*overrides: str) -> dict[str, Any]:
    """Return what Hydra composes of conf/config.yaml and overrides, as plain values."""
    return copy.deepcopy(_composed(overrides))


@functools.cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return to_tree(compose("config", list(overrides)))


def parse_pages_once(patch: pytest.MonkeyPatch) -> None:
    """Have Hydra's readers of files return a copy of what they read before from the same unchanged file."""
    Plugins.instance()  # makes the classes of the readers, once more if they have been imported
    for source in map(SourcesRegistry.instance().resolve, ("file", "pkg")):
        patch.setattr(source, "load_config", _kept(source.load_config))


def _kept(load: Any) -> Any:
    pages: dict[Any, ConfigResult] = {}

    def load_config(self: Any, config_path: str) -> ConfigResult:
        key: Any = (self.path, config_path)
        file = Path(self.path, self._normalize_file_name(config_path))
        if file.is_file():
            about = file.stat()
            key = (*key, about.st_mtime_ns, about.st_size, about.st_ino)
        if key not in pages:
            pages[key] = load(self, config_path)
        return copy.deepcopy(pages[key])

    return load_config
