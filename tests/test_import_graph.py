"""Imports go one way: cli -> stages -> training -> the middle -> pure functions and file formats -> runtime -> errors.

In a layer too: of two packages one knows nothing of the other.
"""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"stcl_cli": ROOT / "stcl_cli", "stcl_models": ROOT / "models"}

# From the top: a module imports from its own layer and from those below.
LAYERS = [
    {"cli", "options", "__main__"},
    {"stages"},
    {"training"},
    {"networks", "inference", "flops", "data", "refine", "export", "report", "stcl_models"},
    {
        *("formats", "losses", "evaluation"),
        *("cams", "discriminants", "memory", "presence", "pictures", "strips"),
    },
    {"runtime", "console"},
    {"errors", "config"},
    {"wording", "stcl_cli"},
]
CHAINS = {"stcl_cli.stages.run", "stcl_cli.stages.bench", "stcl_cli.stages.demo"}  # they run the other stages
SHARED_BY_STAGES = {"stcl_cli.stages.output", "stcl_cli.stages.provenance"}


def read_modules() -> dict[str, str]:
    """Dotted name -> source, of every module of both packages."""
    modules = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            modules[".".join([package, *(part for part in parts if part != "__init__")])] = path.read_text("utf-8")
    return modules


def imports(source: str, modules: dict[str, str]) -> Iterator[str]:
    """The modules of ours that a source imports; what only type checkers read does not count."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def layer(module: str) -> int:
    number = next((number for number, names in enumerate(LAYERS) if package(module) in names), None)
    assert number is not None, f"{module}: give it a place in LAYERS"
    return number


def package(module: str) -> str:
    """What lies in the top folder: a package, or a module of its own."""
    first, _, rest = module.partition(".")
    return first if first == "stcl_models" or not rest else rest.split(".")[0]


def in_config(*modules: str) -> bool:
    return all(f"{module}.".startswith("stcl_cli.config.") for module in modules)


def wrong_imports(module: str, modules: dict[str, str]) -> list[str]:
    wrong = []
    for imported in set(imports(modules[module], modules)) - {module}:
        if layer(imported) < layer(module):
            wrong.append(f"{module} -> {imported}: upwards")
        elif module.startswith("stcl_models") and not imported.startswith("stcl_models"):
            wrong.append(f"{module} -> {imported}: the networks stand alone")
        elif module.startswith("stcl_cli.stages.") and imported.startswith("stcl_cli.stages"):
            if imported not in SHARED_BY_STAGES and module not in CHAINS:
                wrong.append(f"{module} -> {imported}: stages meet only through files")
        elif layer(imported) == layer(module) >= len(LAYERS) - 2 and not in_config(module, imported):
            wrong.append(f"{module} -> {imported}: the lowest layers know nothing of their own")
        elif (
            module == "stcl_cli.training.engine"
            and layer(imported) < layer("stcl_cli.formats")
            and imported != "stcl_cli.training.log"
        ):
            wrong.append(f"{module} -> {imported}: the engine knows no task")
    return wrong


def test_arrows_go_one_way_and_never_in_a_circle():
    modules = read_modules()
    assert {"stcl_cli.cli", "stcl_cli.stages.train", "stcl_models.backbone", "stcl_cli.errors"} <= set(modules)
    assert [wrong for module in modules for wrong in wrong_imports(module, modules)] == []
    graph = {module: set(imports(source, modules)) - {module} for module, source in modules.items()}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError
    packages: dict[str, set[str]] = {}
    for module, imported in graph.items():
        own = package(module)
        packages.setdefault(own, set()).update({package(other) for other in imported} - {own})
    graphlib.TopologicalSorter(packages).prepare()


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("stcl_cli.cams", "from stcl_cli.stages import train"),
        ("stcl_cli.evaluation.metrics", "def late():\n    import stcl_cli.training.engine"),
        ("stcl_cli.stages.refine", "from stcl_cli.stages.cam import run"),
        ("stcl_cli.stages.refine", "from stcl_cli.stages import cam"),
        ("stcl_models.backbone", "from stcl_cli.errors import StclError"),
        ("stcl_cli.config.shared", "from stcl_cli import errors"),
        ("stcl_cli.errors", "from stcl_cli import config"),
        ("stcl_cli.training.engine", "from stcl_cli.data.loader import training_batches"),
    ],
)
def test_a_wrong_import_is_caught(module, line):
    modules = read_modules()
    modules[module] += "\n" + line
    assert len(wrong_imports(module, modules)) == 1


def test_a_module_without_a_layer_is_caught():
    with pytest.raises(AssertionError, match=r"stcl_cli.misc: give it a place"):
        wrong_imports("stcl_cli.cams", {"stcl_cli.cams": "import stcl_cli.misc", "stcl_cli.misc": ""})
