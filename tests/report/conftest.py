"""A finished climb, written once for all tests of the report."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("report_example", Path(__file__).with_name("example.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def example() -> ModuleType:
    return load_example()


@pytest.fixture(scope="session")
def finished(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: tests that change it copy it first."""
    return example.make_climb(tmp_path_factory.mktemp("climb"))


@pytest.fixture
def climb(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    import shutil

    return Path(shutil.copytree(finished, tmp_path / "climb"))
