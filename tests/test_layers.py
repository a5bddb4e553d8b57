"""The import table of the house: layers point down only, two fences, one door a library, no cycles."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS: dict[str, int] = {
    "errors": 0, "records": 0,
    "durations": 1, "curves": 1, "schedules": 1, "detectors": 1, "remedies": 1, "watch": 1, "diagnosis": 1,
    "sweep_summary": 1, "commands": 1, "calibration": 1, "scaling": 1, "trends": 1, "stability": 1, "finding": 1,
    "optim": 2, "tasks": 2,
    "train": 3, "lanes": 3, "range_test": 3,
    "tracking": 4, "readers": 4, "report": 4, "known": 4,
    "config": 5, "config_types": 5, "config_search": 5, "config_source": 5,
    "nodes": 5, "compose": 5, "check": 5, "checks": 5, "facts": 5,
    "lint": 5, "lint_curve": 5, "lint_page": 5, "wording": 5, "signatures": 5, "assemble": 5, "build": 5,
    "build_schedules": 5,
    "recorded": 5, "group_table": 5, "provenance": 5, "continue_run": 5, "load": 5, "needs": 5, "rates": 5, "scan": 5,
    "variants": 5, "estimate": 5, "bracket": 5, "search": 5, "build_meters": 5, "build_snapshots": 5,
    "build_optimizer": 5, "build_task": 5, "lr_end": 5, "found_page": 5, "torch_schedule": 5, "trials": 5, "job": 5,
    "sweeps": 5, "range_bracket": 5, "range_file": 5, "lr_retry": 5,
    "modes": 6,
    "__main__": 7, "sweeps.run": 7, "plugins": 7,
}  # fmt: skip
FENCES = {(4, 3), (3, 4)}
DOORS: dict[str, set[str]] = {
    "torch": {
        "optim",
        "tasks",
        "train",
        "lanes",
        "range_test",
        "build",
        "build_meters",
        "build_optimizer",
        "torch_schedule",
        "load",
        "estimate",
        "group_table",
    },
    "hydra": {"compose", "continue_run", "search", "modes", "__main__", "job", "sweeps", "plugins", "trials"},
    "omegaconf": {"compose", "continue_run", "search", "modes", "__main__", "job", "sweeps", "plugins", "trials"},
    "optuna": {"search"},
    "mlflow": {"tracking.mlflow"},
    "matplotlib": {"report"},
    "plotly": {"report"},
    "plotext": {"report"},
    "joblib": {"sweeps"},
    "psutil": {"sweeps.signals"},
}
LAZY = {
    "mlflow",
    "matplotlib",
    "plotly",
    "optuna",
    "sklearn",
    "torchmetrics",
    "pandas",
    "pyarrow",
    "joblib",
    "psutil",
    "plotext",
}


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Dotted name inside the package -> its syntax tree."""
    files = (ROOT / "runner").rglob("*.py")
    return {
        ".".join(path.relative_to(ROOT / "runner").with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
        for path in files
        if path.name != "__init__.py"
    }


def imports(tree: ast.Module, *, top_level: bool = False) -> set[str]:
    """Dotted names that a module imports; those under TYPE_CHECKING do not count."""
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in tree.body if top_level else ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def inside(name: str) -> str | None:
    """`runner.x.y.attribute` -> `x.y`, the module of ours that is meant; None for other packages."""
    if not name.startswith("runner."):
        return None
    parts, known = name.split(".")[1:], modules()
    return next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in known), None)


def layer_of(module: str) -> int:
    """Layer of a module: its own where it has one, that of its package where not."""
    return LAYERS[module] if module in LAYERS else LAYERS[module.split(".")[0]]


@pytest.mark.parametrize("module", sorted(modules()))
def test_module_imports_only_what_its_layer_may(module: str) -> None:
    tree, layer = modules()[module], layer_of(module)
    wrong = []
    for name in sorted(imports(tree)):
        target = inside(name)
        if target is not None:
            below = layer_of(target)
            if below > layer or (layer, below) in FENCES:
                wrong.append(
                    f"{module} (layer {layer}) imports {target} (layer {below}); allowed: below, not across a fence"
                )
            if layer == 6 and below == 6:
                wrong.append(f"mode {module} imports mode {target}; allowed: no other mode")
        doors = DOORS.get(name.split(".")[0])
        if doors is not None and not any(module == door or module.startswith(f"{door}.") for door in doors):
            wrong.append(f"{module} imports {name}; allowed only in {', '.join(sorted(doors))}")
    for name in imports(tree, top_level=True):
        if name.split(".")[0] in LAZY:
            wrong.append(f"{module} imports {name} at the top; allowed: inside the function that needs it")
    assert not wrong, "\n".join(wrong)


def test_import_graph_has_no_cycle_and_is_at_most_seven_deep() -> None:
    graph = {
        name: {target for i in imports(tree, top_level=True) if (target := inside(i)) is not None and target != name}
        for name, tree in modules().items()
    }
    depths: dict[str, int] = {}

    def depth(name: str, trail: tuple[str, ...] = ()) -> int:
        assert name not in trail, "import cycle: " + " -> ".join((*trail, name))
        if name not in depths:
            depths[name] = 1 + max((depth(target, (*trail, name)) for target in graph[name]), default=0)
        return depths[name]

    deepest = max(graph, key=depth)
    assert depths[deepest] <= 7, f"{deepest} has an import chain of {depths[deepest]}"


def test_package_init_files_are_empty() -> None:
    assert [str(p) for p in (ROOT / "runner").rglob("__init__.py") if p.read_text().strip()] == []


def test_files_are_at_most_300_lines_and_functions_at_most_60() -> None:
    long = []
    for name, tree in modules().items():
        source = (ROOT / "runner" / name.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        if (lines := source.count("\n")) > 300:
            long.append(f"{name}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (size := node.end_lineno - node.lineno + 1) > 60:  # type: ignore[operator]
                long.append(f"{name}.{node.name}: {size} lines")
    assert not long, "\n".join(long)
