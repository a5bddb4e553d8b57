"""Rules about `scaling`: what is refused, and what is allowed but unusual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Lt
from pydantic import TypeAdapter, ValidationError

from runner.config import Config, OptimizerNode, Scaling
from runner.config_types import NonNegative
from runner.scaling import LARGEST_LINEAR_BATCH, LARGEST_LINEAR_FACTOR, Hyperparameters, scale
from runner.signatures import locate, parameters_of
from runner.wording import Findings, shown

_Beta = Annotated[NonNegative, Lt(1)]
_MOMENTS: Mapping[str, tuple[TypeAdapter[Any], str]] = {
    "betas": (TypeAdapter(tuple[_Beta, _Beta]), "two numbers >= 0 and < 1"),
    "eps": (TypeAdapter(NonNegative), "a finite number >= 0"),
}
_RULE_OF = {"SGD": "linear", "Adam": "sqrt", "AdamW": "sqrt", "NAdam": "sqrt", "RAdam": "sqrt", "RMSprop": "sqrt"}
_SOURCES = {"linear": "Goyal et al. 2017, arXiv:1706.02677", "sqrt": "Malladi et al. 2022, arXiv:2205.10287"}


def check_scaling(found: Findings) -> None:
    """Check that the rule has what it needs, and that what it makes of betas are betas."""
    scaling, optimizer, train = (found.sections.get(name) for name in ("scaling", "optimizer", "train"))
    if scaling is None:
        return
    if scaling.rule == "none":
        _check_none(scaling, found)
        return
    if scaling.reference_batch_size is None:
        fix = "Set it to the batch size that optimizer.lr was found with"
        found.add("scaling.reference_batch_size", f"must be given for the {scaling.rule} rule, got null", fix)
    if not scaling.betas:
        return
    if scaling.rule == "linear":
        found.add(
            "scaling.betas", "must be false with the linear rule, got true", "Set scaling=sqrt scaling.betas=true"
        )
    elif optimizer is not None and _check_moments(optimizer, found) and train is not None:
        factor = scaling.factor(train.batch_size)
        try:
            scale(Hyperparameters(optimizer.lr, optimizer.arguments["betas"]), rule="sqrt", factor=factor)
        except ValueError as error:
            fix = "Set scaling.betas=false, a smaller train.batch_size or larger optimizer.betas"
            found.add("scaling.betas", f"{error}, where k = train.batch_size / scaling.reference_batch_size", fix)


def _check_none(scaling: Scaling, found: Findings) -> None:
    fix = "Set scaling=linear or scaling=sqrt"
    if scaling.reference_batch_size is not None:
        rule = f"must be null without a rule, got {scaling.reference_batch_size}"
        found.add("scaling.reference_batch_size", rule, fix)
    if scaling.betas:
        found.add("scaling.betas", "must be false without a rule, got true", "Set scaling=sqrt scaling.betas=true")


def _check_moments(optimizer: OptimizerNode, found: Findings) -> bool:
    """Whether the page names the betas of the optimizer, and its eps where it has one, so that they can be scaled."""
    try:
        known = parameters_of(locate(optimizer.target))
    except (LookupError, TypeError):
        return False  # reported by the check of the node
    if "betas" not in {*known, *optimizer.arguments}:
        name = optimizer.name
        rule = f"must be false for an optimizer without betas, got true with {name}"
        found.add("scaling.betas", rule, "Set scaling.betas=false")
        return False
    is_sound = True
    for name, (adapter, form) in _MOMENTS.items():
        value = optimizer.arguments.get(name)
        if name not in known and value is None:
            continue
        try:
            adapter.validate_python(tuple(value) if isinstance(value, list) else value)
        except ValidationError:
            is_sound = False
            rule = f"must be {form} to be scaled, got {'nothing' if value is None else shown(value)}"
            found.add(f"optimizer.{name}", rule, f"Give optimizer.{name}, or set scaling.betas=false")
    return is_sound


def unusual_rule(config: Config) -> str:
    """Say that another rule is the usual one for this optimizer."""
    rule, name = config.scaling.rule, config.optimizer.name
    if rule != "none" and config.optimizer.d_coef is not None:
        return f"scaling: {name} estimates its learning rate at the batch size that it has. Set scaling=none."
    usual = _RULE_OF.get(name, rule)
    if rule in ("none", usual):
        return ""
    return f"scaling: the {usual} rule is the usual one for {name} ({_SOURCES[usual]}). Set scaling={usual}."


def far_from_reference(config: Config) -> str:
    """Say that linear scaling goes further than it was tried."""
    factor, batch_size = config.batch_factor, config.train.batch_size
    is_tried = factor <= LARGEST_LINEAR_FACTOR and (factor <= 1 or batch_size <= LARGEST_LINEAR_BATCH)
    if config.scaling.rule != "linear" or is_tried:
        return ""
    return (
        f"scaling: batch size {batch_size:,} is {factor:g} times the reference; on ImageNet the linear rule held "
        f"up to {LARGEST_LINEAR_BATCH:,}, {LARGEST_LINEAR_FACTOR} times 256 ({_SOURCES['linear']}). A lower learning "
        "rate may be needed."
    )


def unscaled_warmup(config: Config) -> str:
    """Say that a warmup is as long as the written beta2 asks for, not the scaled one."""
    if not config.scaling.betas:
        return ""
    written, scaled = (node.arguments["betas"][1] for node in (config.optimizer, config.scaled_optimizer))
    if config.warmup.arguments.get("beta2") != written or written == scaled:
        return ""
    return f"warmup.beta2: {written:g} is scaled to {scaled:g} for the optimizer. Set warmup.beta2={scaled:g}."
