"""Source tree in; lines per package out, and exit 1 with a list when a size budget of the house is broken."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "stepladder"
FILE_LINES, FUNCTION_LINES, LOOP_LINES, PARAMETERS, PUBLIC_NAMES, FIELDS = 400, 60, 120, 7, 12, 12
PIPELINE_LINES, CLI_LINES = 80, 200
AIM_LINES = 12_000
# The one training loop may be longer: cutting it in pieces hides the order of its steps.
LOOP_FILE = "train/loop.py"


def breaches(path: Path) -> Iterator[str]:
    """All budgets that one file breaks."""
    name = path.relative_to(SOURCE).as_posix()
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    limit = {"pipeline.py": PIPELINE_LINES, "cli.py": CLI_LINES}.get(name, FILE_LINES)
    if lines > limit:
        yield f"{name}: {lines} lines (at most {limit})"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _function_breaches(name, node)
        elif isinstance(node, ast.ClassDef) and _is_dataclass(node):
            fields = sum(isinstance(item, ast.AnnAssign) for item in node.body)
            if fields > FIELDS:
                yield f"{name}:{node.lineno} {node.name}: {fields} fields (at most {FIELDS})"


def _function_breaches(name: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    limit = LOOP_LINES if name == LOOP_FILE else FUNCTION_LINES
    if length > limit:
        yield f"{name}:{node.lineno} {node.name}: {length} lines (at most {limit})"
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    count = sum(argument.arg not in ("self", "cls") for argument in arguments)
    # A verb's parameters are the flags of the command line; they are documented there one by one.
    if count > PARAMETERS and not name.startswith("verbs/"):
        yield f"{name}:{node.lineno} {node.name}: {count} parameters (at most {PARAMETERS})"


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def public_names(package: Path) -> int:
    """Names that a package offers at its root: those in `__all__`, else those imported or defined there."""
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
    return sum(not name.startswith("_") for name in names)


def main() -> int:
    """Print the table; return 1 when something is over budget."""
    files = sorted(path for path in SOURCE.rglob("*.py") if "vendor" not in path.parts)
    found = [breach for path in files for breach in breaches(path)]
    per_package: dict[str, int] = {}
    for path in files:
        parts = path.relative_to(SOURCE).parts
        key = parts[0] if len(parts) > 1 else "(root)"
        per_package[key] = per_package.get(key, 0) + len(path.read_text(encoding="utf-8").splitlines())
    for package in sorted(path.parent for path in SOURCE.rglob("__init__.py")):
        if (count := public_names(package)) > PUBLIC_NAMES:
            found.append(f"{package.name}/__init__.py: {count} public names (at most {PUBLIC_NAMES})")
    for key, lines in per_package.items():
        print(f"{key:12s} {lines:6,d} lines")
    print(f"{'all':12s} {sum(per_package.values()):6,d} lines (aim: {AIM_LINES:,})")
    for breach in found:
        print(f"over budget: {breach}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
