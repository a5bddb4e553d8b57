"""The resolved configuration of a run, in its directory."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_omega_conf_dumper

from runner.tracking.directory import CONFIG


def save_page(tree: Mapping[str, Any], directory: Path) -> None:
    """Write the resolved configuration into a run directory as `OmegaConf.save` does, which wraps it all first."""
    text = "".join(_section(pickle.dumps({key: value})) for key, value in tree.items()) or "{}\n"
    (directory / CONFIG).write_text(text, encoding="utf-8")


@functools.lru_cache(maxsize=256)
def _section(pickled: bytes) -> str:
    """Return a section as YAML: the runs of a sweep share nearly all of them, and to write a page takes 10 ms."""
    section = pickle.loads(pickled)
    text: str = yaml.dump(section, Dumper=get_omega_conf_dumper(), allow_unicode=True, sort_keys=False)
    return text
