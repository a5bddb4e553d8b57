"""What a `_target_` names and takes, found by looking, never by calling."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict

from runner.durations import Clock, FromRun, Steps, StepsOrZero
from runner.errors import nearest, with_place
from runner.nodes import Node, is_node, leaves

PROVIDED: Mapping[str, frozenset[str]] = {
    "mode": frozenset({"config", "invocation", "prune"}),
    "task": frozenset({"batch_size", "seed"}),
    "sampler": frozenset({"search_space"}),
    "hydra.sweeper.sampler": frozenset({"search_space"}),
}
"""section -> arguments of its target that the runner fills in by name; others say so by their annotation (`FromRun`)"""

EXTRAS: Mapping[str, str] = {
    "bitsandbytes": "bitsandbytes",
    "heavyball": "heavyball",
    "prodigyopt": "prodigy",
    "pytorch_optimizer": "pytorch-optimizer",
    "schedulefree": "schedulefree",
    "timm": "timm",
    "torchao": "torchao",
}
"""package that a YAML may name -> the extra of this project that installs it"""

_DURATIONS = (Steps, StepsOrZero)


def parameters_of(target: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a class or function; a builtin such as `torch.tensor` tells none, and takes any."""
    found: Mapping[str, inspect.Parameter] = _remembered(_parameters, target)
    return found


def hints_of(target: Any) -> Mapping[str, Any]:
    """Return argument -> annotation of a class or function; empty when they cannot be resolved."""
    found: Mapping[str, Any] = _remembered(_hints, target)
    return found


def _remembered(find: Any, target: Any) -> Any:
    """Return what is found out of a target, once for all jobs of a sweep."""
    try:
        return find(target)
    except TypeError:  # an object that is no key
        return find.__wrapped__(target)


@functools.lru_cache(maxsize=512)
def _parameters(target: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(target).parameters
    except ValueError:
        return {"arguments": inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)}


@functools.lru_cache(maxsize=512)
def _hints(target: Any) -> Mapping[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def hint_at(hints: Mapping[str, Any], path: str) -> Any:
    """Return the annotation of what lies at a dotted path below the arguments, without "or None"."""
    name, *below = path.split(".")
    hint = _present(hints.get(name, Any))
    for part in below:
        if is_typeddict(hint):
            hint = _present(fields_of(hint).get(part, Any))
        else:
            members = get_args(get_args(hint)[0] if get_origin(hint) is Annotated else hint)
            hint = _present(members[-1]) if members else Any
    return hint


def fields_of(hint: Any) -> dict[str, Any]:
    """Return key -> annotation of a `TypedDict`."""
    return get_type_hints(hint, include_extras=True)


def section_type(hint: Any) -> Any:
    """Return T where an annotation is a mapping of names to sections with the keys of a `TypedDict` T, else None."""
    hint = _present(hint)
    last = get_args(hint)[-1] if get_origin(hint) in (dict, Mapping) else None
    return last if is_typeddict(last) else None


def spread(name: str, value: Any, hint: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted path, value, annotation) of an argument; of every key that a mapping of sections declares."""
    kind = section_type(hint)
    if kind is None:
        yield name, value, hint
        return
    fields = fields_of(kind)
    for section, items in value.items() if isinstance(value, Mapping) else ():
        known = items.items() if isinstance(items, Mapping) else ()
        yield from ((f"{name}.{section}.{key}", item, fields[key]) for key, item in known if key in fields)


def _present(hint: Any) -> Any:
    if get_origin(hint) in (Union, UnionType):
        members = [member for member in get_args(hint) if member is not NoneType]
        return members[0] if len(members) == 1 else hint
    return hint


def form(hint: Any) -> Literal["value", "factory", "timed", "function"]:
    """Return in which form an argument takes a part that names a target.

    `Callable[[], T]` takes a factory, which makes the part anew at every call (a model, once the seed is set), and
    `Callable[[Clock], T]` one that makes it for a stretch of the run. Any other `Callable` takes a function: a class is
    called to get it, a function is handed over with the given arguments bound. All else takes what the target returns,
    `Annotated[Callable, ...]` too.
    """
    if get_origin(hint) is not Callable:
        return "value"
    wanted = get_args(hint)[0]
    return "factory" if wanted == [] else "timed" if wanted == [Clock] else "function"


def makes_schedule(hint: Any) -> bool:
    """Whether an argument takes what a schedule factory returns, or what makes a schedule for a stretch of the run."""
    members = get_args(hint)
    return bool(members) and (members[0] if get_origin(hint) is Annotated else members[-1]) == Callable[[int], float]


def is_bound_later(target: Any, hint: Any, *, partial: bool) -> bool:
    """Whether a part is handed over as a function, so that its remaining arguments come later."""
    return partial or (form(hint) == "function" and not inspect.isclass(target))


def is_duration(hint: Any) -> bool:
    """Whether an argument of this type is written as a duration."""
    return hint in _DURATIONS


def durations_of(node: Node) -> dict[str, str | int]:
    """Return what a node says of durations, its parts included: dotted path below it -> duration as written."""
    hints = hints_of(locate(node.target))
    found: dict[str, str | int] = {}
    for path, value in leaves(node.arguments):
        if is_node(value):
            inner = durations_of(Node.model_validate(value))
            found |= {f"{path}.{name}": duration for name, duration in inner.items()}
        elif value is not None and is_duration(hint_at(hints, path)):
            found[path] = value
    return found


def named_by_runner(key: str, target: Any) -> frozenset[str]:
    """Return the arguments that the runner fills in by name, or first: an optimizer begins with its parameters."""
    return frozenset(list(parameters_of(target))[:1]) if key == "optimizer" else PROVIDED.get(key, frozenset())


def filled_in(target: Any) -> dict[str, str]:
    """Return the arguments of a class or function that the runner fills in: argument -> what of the run."""
    marks = {
        name: next((mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, FromRun)), None)
        for name, hint in hints_of(target).items()
    }
    return {name: mark.name for name, mark in marks.items() if mark is not None}


def locate(path: str) -> Any:
    """Return what a dotted path names, without calling it.

    Raises:
        LookupError: nothing is there. Its arguments: the rule; the nearest path that exists, or ""; the fix, or "".
    """
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                fix = f"Install {error.name}, or mend the import"
                raise LookupError(f"must be importable, but {with_place(error)}", "", fix) from None
            continue
        except (Exception, SystemExit) as error:
            raise LookupError(f"must be importable, but {with_place(error)}", "", "Mend that file") from None
        for name in parts[cut:]:
            if not hasattr(found, name):
                close = nearest(name, dir(found))
                raise LookupError("must name something that exists", f"{module_name}.{close}" if close else "")
            found = getattr(found, name)
        if not callable(found):
            raise LookupError("must name a class or a function")
        return found
    if (extra := EXTRAS.get(parts[0])) is not None:
        fix = f"Install it: pip install 'stepsize-runner[{extra}]', or '.[{extra}]' in a checkout"
        raise LookupError(f"must be importable, but {parts[0]} is not installed", "", fix)
    raise LookupError("must be the dotted path of a class or function that can be imported")


def needs_closure(optimizer: Any) -> bool:
    """Whether the `step` of an optimizer class cannot be called without a closure."""
    step = getattr(optimizer, "step", None)
    closure = inspect.signature(step).parameters.get("closure") if step else None
    return closure is not None and closure.default is inspect.Parameter.empty


def has_fused(target: str) -> bool:
    """Whether an optimizer class has a fused form, which can drop an update on the device."""
    try:
        return "fused" in inspect.signature(locate(target)).parameters
    except LookupError:
        return False


def averages_itself(optimizer: Any) -> bool:
    """Whether an optimizer class averages the weights by itself: `eval()` puts the average in place, `train()` back."""
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


def as_written(hint: Any) -> Any:
    """Return what the YAML may hold for an argument: durations where the factory receives steps."""
    if is_duration(hint):
        return hint.__metadata__[0]
    members = get_args(hint)
    if get_origin(hint) is Annotated:
        return Annotated[(as_written(members[0]), *members[1:])]
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(as_written(member) for member in members)]  # noqa: UP007
    if any(is_duration(member) for member in members):
        return get_origin(hint)[tuple(as_written(member) for member in members)]
    return hint
