"""Registries: names of this package first, then those that other packages register through entry points."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from mlm_dist.config import reference
from mlm_dist.corpus import sources
from mlm_dist.corpus.cleaners import CLEANERS
from mlm_dist.corpus.readers import READERS
from mlm_dist.engine.topologies import TOPOLOGIES
from mlm_dist.errors import ConfigError
from mlm_dist.objectives import OBJECTIVES
from mlm_dist.optim import OPTIMIZERS
from mlm_dist.registry import Registry, entry_points

GROUP = "mlm_dist.tests"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that registers things; its modules are not imported."""
    folder = tmp_path / "site"
    info = folder / "other_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\nlater = other_package_things:LATER\nfirst = other_package_things:FIRST\n"
        "broken = other_package_things:NOTHING\nmissing = no_such_module:THING\n\n"
        "[mlm_dist.sources]\nwiki = other_package_things:Wiki\n\n"
        "[mlm_dist.topologies]\nmine = other_package_things:TOPOLOGY\n",
        "utf-8",
    )
    (folder / "other_package_things.py").write_text(
        "from pathlib import Path\n\nLATER, FIRST, TOPOLOGY = 2, 1, Path('mine.yaml')\n\n\nclass Wiki:\n"
        "    is_local = True\n\n    def recognizes(self, name, key):\n        return name.startswith('wiki:')\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "other_package_things", raising=False)
    return folder


def test_objects_and_addresses_are_registered() -> None:
    registry: Registry[object] = Registry(GROUP, {"one": 1, "path": "pathlib:Path"})
    assert registry.names() == ["one", "path"]
    assert registry["one"] == 1 and registry["path"] is Path
    assert "one" in registry and "two" not in registry
    with pytest.raises(KeyError):
        registry["two"]


def test_added_entry_is_used_in_this_process() -> None:
    registry: Registry[object] = Registry(GROUP, {"one": 1})
    registry.add("two", 2)
    registry.add("one", 3)
    assert (registry.names(), registry["one"], registry["two"]) == (["one", "two"], 3, 2)


def test_module_is_imported_at_first_use(package: Path) -> None:
    registry: Registry[int] = Registry(GROUP, {"here": "other_package_things:LATER"})
    assert "other_package_things" not in sys.modules
    assert registry["here"] == 2
    assert "other_package_things" in sys.modules


def test_entry_points_of_other_packages_follow(package: Path) -> None:
    registry: Registry[object] = Registry(GROUP, {"one": 1})
    assert registry.names() == ["one", "broken", "first", "later", "missing"]
    assert "first" in registry and "other_package_things" not in sys.modules
    assert (registry["first"], registry["later"]) == (1, 2)
    assert [point.name for point in entry_points(GROUP)] == ["broken", "first", "later", "missing"]


def test_name_of_this_package_cannot_be_replaced(package: Path) -> None:
    registry: Registry[object] = Registry(GROUP, {"first": "pathlib:Path"})
    assert registry["first"] is Path
    assert registry.names().count("first") == 1


@pytest.mark.parametrize("name", ["broken", "missing"])
def test_entry_point_that_cannot_be_imported_names_its_package(name: str, package: Path) -> None:
    registry: Registry[object] = Registry(GROUP, {})
    with pytest.raises(ConfigError, match=rf"^{GROUP}: cannot import {name} of the package other-package "):
        registry[name]


def test_registered_source_and_topology_can_be_named(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Registry[type[sources.Source]] = Registry("mlm_dist.sources", sources.BUILT_IN)
    monkeypatch.setattr(sources, "SOURCES", found)
    assert sources.recognize("wiki:en") == "wiki"
    assert sources.is_local("wiki:en")
    assert Registry("mlm_dist.topologies", {}).names() == ["mine"]


def test_reference_names_what_other_packages_register(package: Path) -> None:
    assert reference.registered("corpus.source") == "Other packages register: wiki."
    assert not reference.registered("seed")


def test_every_registered_name_of_this_package_can_be_loaded() -> None:
    registries: list[Registry[object]] = [sources.SOURCES, READERS, CLEANERS, OBJECTIVES, OPTIMIZERS, TOPOLOGIES]  # type: ignore[list-item]
    groups = {registry.group for registry in registries}
    assert len(groups) == 6 and all(group.startswith("mlm_dist.") for group in groups)
    for registry in registries:
        assert registry.names()
        for name in registry.names():
            assert registry[name] is not None
