"""The pages of conf/, each parsed and composed once a process: a hundred tests ask for the same ones."""

import copy
import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import Overrides, _create_interpolation_map, create_defaults_list
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
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


def compose_once(patch: pytest.MonkeyPatch) -> None:
    """Have Hydra do once what it would do again for the same pages: read them, list them and merge them.

    What a command line says of single keys is put in afterwards, by Hydra as ever. With a page from outside conf/ only
    the reading is spared.
    """
    Plugins.instance()  # makes the classes of the readers, once more if they have been imported
    for source in map(SourcesRegistry.instance().resolve, ("file", "pkg")):
        patch.setattr(source, "load_config", _parsed(source.load_config))
    patch.setattr("hydra._internal.config_loader_impl.create_defaults_list", _listed(create_defaults_list))
    patch.setattr(ConfigRepository, "load_config", _read(ConfigRepository.load_config))
    load, merge = "_load_single_config", "_compose_config_from_defaults_list"
    patch.setattr(ConfigLoaderImpl, load, _placed(getattr(ConfigLoaderImpl, load)))
    patch.setattr(ConfigLoaderImpl, merge, _merged(getattr(ConfigLoaderImpl, merge)))
    # copied with its sources for every composition, though there is one and it gives out copies
    patch.setattr(ConfigStore, "__deepcopy__", lambda self, memo: self, raising=False)
    patch.setattr("hydra._internal.defaults_list._create_interpolation_map", _asked(_create_interpolation_map))


class _Kept:
    """Results by key, a copy for each that asks; pickle copies seven times as fast as copy.deepcopy."""

    def __init__(self) -> None:
        self._results: dict[Any, bytes] = {}

    def __contains__(self, key: Any) -> bool:
        return key in self._results

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._results:
            self._results[key] = pickle.dumps(make())
        return pickle.loads(self._results[key])


def _parsed(load: Any) -> Any:
    pages = _Kept()

    def load_config(self: Any, config_path: str) -> ConfigResult:
        key: Any = (self.path, config_path)
        file = Path(self.path, self._normalize_file_name(config_path))
        if file.is_file():
            about = file.stat()
            key = (*key, about.st_mtime_ns, about.st_size, about.st_ino)
        page: ConfigResult = pages.get(key, lambda: load(self, config_path))
        return page

    return load_config


def _read(load: Any) -> Any:
    pages = _Kept()

    def load_config(self: Any, config_path: str) -> ConfigResult | None:
        make = functools.partial(load, self, config_path)
        page: ConfigResult | None = make() if _has_other_pages(self) else pages.get(config_path, make)
        return page

    return load_config


def _placed(load: Any) -> Any:
    pages = _Kept()

    def load_single(self: Any, default: Any, repo: Any) -> ConfigResult:
        make = functools.partial(load, self, default, repo)
        page: ConfigResult = make() if _has_other_pages(repo) else pages.get(repr(default), make)
        return page

    return load_single


def _listed(create: Any) -> Any:
    lists = _Kept()

    def make_list(repo: Any, config_name: str | None, overrides_list: list[Any], **how: bool) -> Any:
        if _has_other_pages(repo):
            return create(repo, config_name, overrides_list, **how)
        of_groups = tuple(o.input_line for o in overrides_list if repo.group_exists(o.key_or_group))
        key = (config_name, of_groups, tuple(how.items()))
        found = lists.get(key, lambda: create(repo, config_name, overrides_list, **how))
        found.config_overrides = Overrides(repo, overrides_list).config_overrides
        return found

    return make_list


def _merged(compose_pages: Any) -> Any:
    trees = _Kept()
    lists: list[tuple[str, ...]] = []

    def merge(self: Any, defaults: list[Any], repo: Any) -> Any:
        if _has_other_pages(repo):
            return compose_pages(self, defaults, repo)
        key = tuple(map(repr, defaults))
        return trees.get(key, lambda: grow(self, key, defaults, repo))

    def grow(loader: Any, key: tuple[str, ...], defaults: list[Any], repo: Any) -> Any:
        """Merge into what has been merged of the list as far as it is the beginning of another one."""
        same = max((_same(key, other) for other in lists), default=0)
        lists.append(key)
        begun = max((n for n in range(1, same + 1) if key[:n] in trees), default=0)
        if begun < same < len(key):
            trees.get(key[:same], lambda: after(loader, begun, key[:same], defaults[:same], repo))
            begun = same
        return after(loader, begun, key, defaults, repo)

    def after(loader: Any, begun: int, key: tuple[str, ...], defaults: list[Any], repo: Any) -> Any:
        if not begun:
            return compose_pages(loader, defaults, repo)
        first = _First(loader, trees.get(key[:begun], dict))
        return compose_pages(first, defaults[begun - 1 :], repo)

    return merge


def _same(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Return how many of the first pages two lists share."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (here, there) in enumerate(pairs) if here != there), min(len(one), len(other)))


class _First:
    """A loader that gives a tree for the first page that it is asked for."""

    def __init__(self, loader: Any, tree: Any) -> None:
        self._loader, self._tree = loader, tree

    def _load_single_config(self, *, default: Any, repo: Any) -> Any:
        tree, self._tree = self._tree, None
        if tree is not None:
            return SimpleNamespace(config=tree)
        return self._loader._load_single_config(default=default, repo=repo)


def _asked(make_map: Any) -> Any:
    def choices(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
        return make_map(overrides, defaults, self_added) if any(d.is_interpolation() for d in defaults) else None

    return choices


def _has_other_pages(repo: Any) -> bool:
    return any(source.scheme() == "file" and source.path != str(CONF) for source in repo.get_sources())
