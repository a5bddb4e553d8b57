"""Parts of the configuration that name what they are made of by `_target_`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Node(BaseModel):
    """A part that names a callable by `_target_`; its other keys are arguments of it."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    target: str = Field(alias="_target_")
    partial: bool = Field(default=False, alias="_partial_")
    positional: list[Any] = Field(default_factory=list, alias="_args_")

    @property
    def arguments(self) -> dict[str, Any]:
        """The keys that are arguments of the target."""
        return dict(self.model_extra or {})

    @property
    def parts(self) -> dict[str, Any]:
        """What names a target of its own inside this node: path below it -> what is written there."""
        below = leaves({**self.arguments, "_args_": self.positional})
        return {path: value for path, value in below if is_node(value)}


def is_node(value: Any) -> bool:
    """Whether a value of the YAML names a target."""
    return isinstance(value, Mapping) and "_target_" in value


def leaves(value: Mapping[str, Any] | list[Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) for all below a mapping or a list; what names a target of its own is one value."""
    for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        below = f"{path}.{name}" if path else str(name)
        yield from leaves(item, below) if isinstance(item, Mapping | list) and not is_node(item) else [(below, item)]


def nodes(sections: Mapping[str, Any]) -> Iterator[tuple[str, Node]]:
    """Yield (dotted key, node) for every part of the page that names a target; its own parts are left to it."""
    searches = getattr(sections.get("mode"), "searches", False)
    for key, section in sections.items():
        if key in ("sampler", "pruner") and not searches:  # whose import takes a while
            continue
        if isinstance(section, Node):
            yield key, section
        elif key in ("schedule_of", "overlays", "detectors", "remedies"):
            yield from ((f"{key}.{name}", node) for name, node in section.items())


def conf_directory() -> Path:
    """Return the folder of config.yaml: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


def option_names(group: str) -> list[str]:
    """Return the options of a config group that come with the program."""
    return sorted(path.stem for path in (conf_directory() / group).glob("*.yaml"))
