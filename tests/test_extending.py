"""docs/extending.md: its code, installed as the package it describes, adds one of each kind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import launching
import pytest
import yaml
from launching import ROOT
from making import made_up_prose

from mlm_dist.corpus.store import PreparedCorpus

PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SUFFIXES = {"python": ".py", "toml": ".toml", "yaml": ".yaml"}
DOCUMENTS, STEPS = 24, 6


def files_of_the_page() -> dict[str, str]:
    """{file: content} of the page's code blocks: each is named in the text before it."""
    text = PAGE.read_text("utf-8")
    found = {}
    for block in BLOCK.finditer(text):
        suffix = re.escape(SUFFIXES[block[1]])
        named = re.findall(rf"`([\w/]+{suffix})`", text[: block.start()])
        found[named[-1]] = block[2]
    return found


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The environment in which the package of the page is installed."""
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    (source / "my_package").mkdir()
    (source / "my_package" / "__init__.py").touch()
    for name, content in files_of_the_page().items():
        (source / name).write_text(content, "utf-8")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install", "--no-deps"]
    ended = launching.run([*pip, "--no-build-isolation", f"--target={place}", str(source)])
    assert ended.returncode == 0, ended.output
    return {"PYTHONPATH": f"{place}:{ROOT}"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip archive with two .yaml files and a .bbcode file, for the source, the reader and the cleaner."""
    path = tmp_path_factory.mktemp("archive") / "docs.zip"
    with zipfile.ZipFile(path, "w") as file:
        for half in range(2):
            pages = ({"title": f"Page {i}", "text": made_up_prose(i, 40)} for i in range(half, DOCUMENTS, 2))
            file.writestr(f"guide/{half}.yaml", yaml.safe_dump_all(pages))
        file.writestr("forum.bbcode", f"[b]Question[/b] [url=x]of a user[/url]\n\n{made_up_prose(99, 40)}")
        file.writestr("guide/notes.bin", b"\0")
    return path


def flags(archive: Path) -> list[str]:
    """A short run with the source, the reader, the cleaner, the objective and the optimizer of the page."""
    return [
        *(
            f"--corpus.source={archive}",
            "--corpus.patterns=**/*.yaml,**/*.bbcode",
            f"--corpus.cache_dir={archive.parent / 'cache'}",
        ),
        *("--objective=reconstruction", "--optim.name=radam", f"--optim.duration={STEPS} steps", "--logging.every=1"),
        *("--checkpoint.every=3", "--corpus.validation_fraction=0.2", *launching.TINY),
    ]


@pytest.fixture(scope="module")
def trained(package: dict[str, Any], archive: Path, one_core: None) -> Path:
    """A run of that kind."""
    run = archive.parent / "run"
    ended = launching.python("train.py", *flags(archive), f"--output_dir={run}", **package)
    assert ended.returncode == 0, ended.output
    return run


def test_the_source_and_the_reader_give_the_documents_of_the_archive(trained: Path, archive: Path) -> None:
    manifest = json.loads(next((archive.parent / "cache").glob("*/manifest.json")).read_text("utf-8"))
    assert manifest["sources"][0]["location"] == str(archive)
    assert manifest["documents"]["found"] == DOCUMENTS + 1


def test_the_cleaner_removes_its_markup(trained: Path, archive: Path) -> None:
    corpus = PreparedCorpus(next((archive.parent / "cache").glob("*/manifest.json")).parent)
    (text,) = (text for id_, _, text in corpus.documents() if id_ == "forum.bbcode")
    assert text.startswith("Question of a user\n\n") and "[" not in text


def test_the_objective_trains_and_validates_with_the_optimizer(trained: Path) -> None:
    start = launching.metrics(trained, "start")[0]
    assert (start["objective"], start["optimizer"]) == ("reconstruction", "radam")
    lines = launching.metrics(trained, "train")
    assert lines[-1]["step"] == STEPS and lines[-1]["loss"] < lines[0]["loss"]
    # It predicts all tokens but the special ones.
    assert all(
        0.9 < line["masked_tokens"] / (line["tokens"] - before) < 1
        for line, before in zip(lines, [0, *(line["tokens"] for line in lines)], strict=False)
    )
    first, *_, last = launching.metrics(trained, "validation")
    assert last["loss"] < first["loss"]


@pytest.mark.slow
def test_a_resumed_run_has_the_same_losses(trained: Path, package: dict[str, Any], archive: Path) -> None:
    checkpoint = trained / "checkpoints" / "step-00000003"
    run = archive.parent / "resumed"
    resume = (f"--checkpoint.resume={checkpoint}", f"--output_dir={run}")
    ended = launching.python("train.py", *flags(archive), *resume, **package)
    assert ended.returncode == 0, ended.output
    expected = [line["loss"] for line in launching.metrics(trained, "train")]
    assert [line["loss"] for line in launching.metrics(run, "train")] == expected


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(trained: Path, package: dict[str, Any], archive: Path) -> None:
    run = archive.parent / "two"
    ended = launching.accelerate("cpu_2", "train.py", *flags(archive), f"--output_dir={run}", **package)
    assert ended.returncode == 0, ended.output
    one, two = ([line["loss"] for line in launching.metrics(path, "train")] for path in (trained, run))
    assert two == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_the_topology_launches_by_its_name(trained: Path, package: dict[str, Any], archive: Path) -> None:
    command = [sys.executable, "-m", "mlm_dist.program", "plan", "--topology", "workstation"]
    port = f"--main_process_port={launching.free_port()}"
    ended = launching.run([*command, port, *flags(archive)], **package)
    assert ended.returncode == 0, ended.output
    assert "2 processes on cpu, DDP, precision bf16" in ended.output


def test_help_and_completion_list_the_names(package: dict[str, Any]) -> None:
    help_, bash = (
        launching.run([sys.executable, "-m", "mlm_dist.program", *words], **package)
        for words in (["keys"], ["--print_completion", "bash"])
    )
    assert (help_.returncode, bash.returncode) == (0, 0), help_.output + bash.output
    text = " ".join(help_.stdout.split())
    for name in ("reconstruction", "radam", "zip"):
        assert f"Other packages register: {name}." in text
    for name in ("reconstruction", "radam", "workstation"):
        assert name in bash.stdout


def test_errors_list_the_names(package: dict[str, Any]) -> None:
    program = (
        "from mlm_dist import objectives\n"
        "from mlm_dist.corpus.sources import recognize\n"
        "from mlm_dist.errors import UserError\n"
        "from mlm_dist.launcher import accelerate_file\n"
        "from mlm_dist.optim.optimizers import check_name\n"
        "wrong = {check_name: 'sgd', objectives.check: 'clm', recognize: './missing/', accelerate_file: 'station'}\n"
        "for check, name in wrong.items():\n"
        "    try:\n"
        "        check(name)\n"
        "    except UserError as error:\n"
        "        print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=launching.environment(**package),
        capture_output=True,
        text=True,
        check=True,
    )
    optimizer, objective, source, topology = ended.stdout.splitlines()
    assert optimizer == "optim.name: sgd is not an optimizer; choose from adamw, stableadamw, muon, radam"
    known = "masked_lm, causal_lm, contrastive, contrastive_masked_lm"
    assert objective == f"objective: clm is not known; choose from {known}, reconstruction"
    assert source.startswith("corpus.source: ./missing/ does not exist") and ", zip or python-docs" in source
    assert topology == "--topology: there is no accelerate file 'station'; did you mean 'workstation'?"


def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    about = tmp_path / "broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n", "utf-8")
    (about / "entry_points.txt").write_text("[mlm_dist.optimizers]\nmine = broken_package:MINE\n", "utf-8")
    ended = launching.python("plan.py", "--optim.name=mine", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.output
    assert "mlm_dist.optimizers: cannot import mine of the package broken" in ended.stderr
