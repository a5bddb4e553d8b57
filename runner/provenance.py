"""Where the learning rate of a run comes from: from what was written, step by step, to what each group begins with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from runner.config import Config, Invocation
from runner.nodes import conf_directory
from runner.tracking.jsonl import find_result

_FLAGS = ("--config-dir", "--config-name")


def lr_provenance(config: Config, invocation: Invocation, groups: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the learning rate as written and as used, and every step between the two.

    With optimizer=muon `optimizer.adamw_lr` is there too: the rate of the groups without Muon, whose multipliers hold
    its ratio to `optimizer.lr`. A step of `origin` is {"what": typed, page, default, resumed or scaled, "value": the
    rate after it, ...}; the first says where it was written.

    Args:
        config: checked.
        invocation: the command line, the options and the page.
        groups: parameter groups of the optimizer, with "name" and "initial_lr".
    """
    optimizer, used = config.optimizer, config.scaled_optimizer.lr
    arguments = optimizer.arguments
    origin = [*_written(config, invocation), *_scaled(config)]
    return {
        "optimizer.lr": optimizer.lr,
        **({"optimizer.adamw_lr": arguments["adamw_lr"]} if "adamw_lr" in arguments else {}),
        "used": used,
        "origin": origin,
        "in_words": ", ".join(map(_in_words, origin)),
        "groups": {
            # the multiplier without the last bits, which multiplying and dividing leave behind
            group["name"]: {
                "lr_multiplier": float(f"{group['initial_lr'] / used:.12g}"),
                "initial_lr": group["initial_lr"],
            }
            for group in groups
        },
        "regime": config.task.regime,
        "typical": optimizer.typical.model_dump() if optimizer.typical is not None else None,
    }


def _written(config: Config, invocation: Invocation) -> list[dict[str, Any]]:
    """Return where `optimizer.lr` was written: the command line wins over a run to go on with, and that over a page."""
    lr, source = config.optimizer.lr, config.resume.source
    keys = {text.partition("=")[0] for text in invocation.overrides}
    if "optimizer.lr" in keys:
        return [{"what": "typed", "where": "the command line", "value": lr}]
    if source is not None and "optimizer" not in keys:
        earlier = find_result(Path(source))
        steps = earlier.learning_rate.get("origin", []) if earlier is not None else []
        return [*(step for step in steps if step["what"] != "scaled"), {"what": "resumed", "from": source, "value": lr}]
    given = dict(zip(invocation.page[::2], invocation.page[1::2], strict=True))
    folder, name = (given.get(flag) for flag in _FLAGS)
    own = invocation.directory / folder if folder is not None else None
    if name is not None and "lr" in (_read(own or conf_directory(), Path(name)).get("optimizer") or {}):
        return [{"what": "page", "where": name, "value": lr}]
    option = Path("optimizer", invocation.choices["optimizer"])
    for place, shown in ((own, folder), (conf_directory(), "conf")):
        if place is not None and (found := _read(place, option)):
            if _number(found.get("lr")) == lr:
                return [{"what": "default", "where": f"{shown}/{option}.yaml", "value": lr}]
            break
    return [{"what": "page", "where": name or "conf", "value": lr}]


def _scaled(config: Config) -> list[dict[str, Any]]:
    """Return the step that the scaling rule makes, none without a rule."""
    scaling, scaled = config.scaling, config.scaled_optimizer
    if scaling.rule == "none":
        return []
    names = [name for name in ("betas", "eps") if scaling.betas and name in scaled.arguments]
    return [
        {
            "what": "scaled",
            "rule": scaling.rule,
            "lr_factor": scaled.lr / config.optimizer.lr,
            "value": scaled.lr,
            "reference_batch_size": scaling.reference_batch_size,
            "batch_size": config.train.batch_size,
            **{name: scaled.arguments[name] for name in names},
        }
    ]


def _in_words(step: Mapping[str, Any]) -> str:
    lr = f"{step['value']:g}"
    if step["what"] == "scaled":
        betas = step.get("betas")
        moments = f", betas {betas[0]:g} and {betas[1]:g}" if betas is not None else ""
        moments += f", eps {step['eps']:g}" if "eps" in step else ""
        batches = f"from batch size {step['reference_batch_size']} to {step['batch_size']}"
        return f"scaled to {lr} ({step['rule']} rule, {batches}{moments})"
    if step["what"] == "resumed":
        return f"kept from {step['from']}"
    place = {"typed": "typed on", "page": "written in", "default": "default of"}[step["what"]]
    return f"{lr} {place} {step['where']}"


def _read(folder: Path, name: Path) -> dict[str, Any]:
    """Return a page or an option as it is written; {} where it cannot be read."""
    path = folder / name
    path = path if path.suffix == ".yaml" else path.with_name(f"{path.name}.yaml")  # "fine.v2" has no suffix to replace
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> float | None:
    """Return a number of a YAML file; 1e-3 is a text to YAML 1.1."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
