"""The wheel holds what the pages name, and the version has one place."""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path

from launching import ROOT

import mlm_dist


def test_wheel_has_topologies_run_configs_and_launch_files(installed: Path) -> None:
    for folder in ("configs", "launch"):
        names = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
        package = installed / "mlm_dist"
        assert names == {path.relative_to(package) for path in (package / folder).rglob("*") if path.is_file()}
    for name in ("local.sh", "multinode.sh"):
        assert os.access(installed / "mlm_dist" / "launch" / name, os.X_OK), name


def test_version_has_one_place() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["version"] == "attr: mlm_dist.__version__"
    newest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None and newest[1] == mlm_dist.__version__
    job = (ROOT / "launch" / "kubernetes.yaml").read_text("utf-8")
    assert set(re.findall(r"mlm_dist:([\w.]+)", job)) == {mlm_dist.__version__}
    assert "0.2.0" not in (ROOT / "pyproject.toml").read_text("utf-8")


def test_readme_names_every_extra() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    section = (ROOT / "README.md").read_text("utf-8").split("\n## Installation\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(config["options.extras_require"])


def test_development_has_what_the_extras_need() -> None:
    """So that `pip install '.[dev]'` runs all tests, apart from those of DeepSpeed and the fast tokenizer."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = {name: set(value.split("\n")[1:]) for name, value in config["options.extras_require"].items()}
    for name in ("formats", "onnx", "optimizers", "scale", "search"):
        assert extras[name] <= extras["dev"], name


def test_every_requirement_of_the_package_is_pinned() -> None:
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in pinned}
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    values = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    for line in "\n".join(values).split():
        name = re.match(r"[\w.-]+", line)
        assert name is not None
        assert re.sub(r"[-_.]+", "-", name[0]).lower() in names, line
