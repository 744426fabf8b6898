"""`mlm-dist`: its help and errors, what it launches, and that it works from an installed wheel."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import launching
import pytest
from launching import ROOT

from mlm_dist import __version__, cli
from mlm_dist.config import keys

QUICK = ("--optim.duration=2 steps", "--validation.every=null", "--checkpoint.every=null", "--export.verify=false")


def mlm_dist(*words: str, **options: object) -> launching.Ended:
    """`mlm-dist ...`."""
    return launching.run([sys.executable, "-m", "mlm_dist.program", *words], **options)  # type: ignore[arg-type]


def test_help_names_all_jobs_and_loads_nothing_heavy() -> None:
    program = (
        "import sys, contextlib\nfrom mlm_dist import cli\n"
        "for words in (['--help'], ['train', '--help'], ['--version'], ['train', '--topology', 'cpu_2', '--help'],\n"
        "              ['compare', '--help']):\n"
        "    sys.argv[1:] = words\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        cli.main()\n"
        "print('heavy:', sorted({'torch', 'transformers', 'datasets', 'accelerate'} & set(sys.modules)))\n"
    )
    ended = launching.run([sys.executable, "-c", program])
    assert "heavy: []" in ended.stdout, ended.output
    assert __version__ in ended.stdout
    for name in cli.JOBS:
        assert f"    {name} " in ended.stdout
    assert "--topology NAME|PATH" in ended.stdout
    assert "zero3_offload" in ended.stdout
    for key in keys():
        assert f"--{key}" in ended.stdout, key


def test_every_job_is_a_file_with_a_run_function() -> None:
    for name in cli.JOBS:
        spec = importlib.util.find_spec(f"mlm_dist.{name}")
        assert spec is not None and spec.origin is not None, name
        text = Path(spec.origin).read_text("utf-8")
        if not cli.JOBS[name].takes_config:
            assert "\ndef run(" in text and "\ndef main(" in text, name
            continue
        assert "\ndef run(config: Config" in text, name
        assert "\n    runtime.main(run, " in text, name
        assert ("of_a_run=True" in text) == cli.JOBS[name].of_a_run, name


WRONG = {
    "no job": ([], "plan, prepare, train"),
    "unknown job": (["trian"], "did you mean 'train'?"),
    "unknown topology": (["train", "--topology", "zero22"], "did you mean 'zero2'?"),
    "no topology": (["train", "--topology"], "--topology: name one file"),
    "unknown key": (["train", "--optim.lrr=3"], "did you mean 'optim.lr'?"),
    "unknown key of a launched job": (["train", "--topology=cpu_2", "--optim.lrr=3"], "did you mean 'optim.lr'?"),
    "unknown flag of the launcher": (
        ["train", "--topology=cpu_2", "--num_proceses=2"],
        "neither train nor the launcher; did you mean 'num_processes'?",
    ),
    "wrong value for the launcher": (["train", "--topology=cpu_2", "--num_processes=x"], "invalid int value: 'x'"),
    "launcher's flag without topology": (["train", "--num_processes=2"], "flags of the launcher need --topology"),
    "contradiction in the file": (["train", "--topology=cpu", "--num_processes", "2"], "num_processes: 2"),
    "contradiction in the run": (["plan", "--topology=cpu", "--mixed_precision=fp16"], "mixed_precision: fp16"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_input_is_one_line_and_exit_code_2(name: str) -> None:
    words, message = WRONG[name]
    ended = mlm_dist(*words)
    assert ended.returncode == 2, ended.output
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ended.output
    assert message in lines[0]
    assert "Traceback" not in ended.output


@pytest.mark.slow
def test_file_that_is_not_an_accelerate_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for text in ("- a\n- b\n", "distributed_type: NO\nuse_cpu: true\nprocesses: 3\n", "a: [\n"):
        file.write_text(text, "utf-8")
        ended = mlm_dist("plan", "--topology", str(file))
        assert ended.returncode == 2, ended.output
        assert f"cannot launch with {file}" in ended.stderr
        assert "Traceback" not in ended.output


def test_debug_shows_the_traceback() -> None:
    for words in (("train", "--optim.lrr=3"), ("train", "--topology=zero22")):
        ended = mlm_dist(*words, "--debug")
        assert ended.returncode == 2
        assert "Traceback" in ended.stderr
        assert "ConfigError" in ended.stderr
        assert ended.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_a_script_of_the_shell(shell: str, tmp_path: Path) -> None:
    ended = mlm_dist("--print_completion", shell)
    assert ended.returncode == 0, ended.output
    assert "zero3_offload" in ended.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "completion"
    script.write_text(ended.stdout, "utf-8")
    assert subprocess.run([shell, "-n", script], check=False).returncode == 0


def test_bash_completes_jobs_topologies_and_values(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(mlm_dist("--print_completion", "bash").stdout, "utf-8")
    for words, expected in (
        (["tr"], "train"),
        (["train", "--topology", "zero3_"], "zero3_offload"),
        (["plan", "--optim.sch"], "--optim.schedule"),
        (["plan", "--optim.schedule", "cos"], "cosine"),
    ):
        line = " ".join(f"'{word}'" for word in words)
        program = (
            f"source '{script}'; COMP_WORDS=(mlm-dist {line}); COMP_CWORD={len(words)}; _shtab_mlm_dist; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
        assert expected in done.stdout.split(), (words, done.stdout, done.stderr)


def test_flags_are_split_into_those_of_the_job_and_of_the_launcher() -> None:
    words = "--topology zero2 --num_processes 4 --optim.lr 3e-5 --seed 1 --mixed_precision=bf16 --config a.yaml --debug"
    flags = cli.split_flags(words.split())
    assert (flags.topology, flags.debug) == ("zero2", True)
    assert flags.for_job == ["--optim.lr", "3e-5", "--seed", "1", "--config", "a.yaml"]
    assert flags.for_launcher == ["--num_processes", "4", "--mixed_precision=bf16"]


@pytest.mark.slow
def test_launched_processes_save_at_a_signal_and_the_exit_code_is_75(tmp_path: Path, prepared_cache: Path) -> None:
    """SIGTERM reaches the program alone, as in a container: its processes save, and it exits with their code."""
    words = ("train", "--topology", "cpu_2", "--main_process_port", str(launching.free_port()))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlm_dist.program", *words, f"--corpus.cache_dir={prepared_cache}"),
            *(f"--output_dir={tmp_path / 'run'}", "--optim.duration=2000 steps", "--logging.every=1", *launching.TINY),
        ],
        env=launching.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        assert any(re.match(r"step +2/", line) for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
    assert process.returncode == 75, output + errors
    assert re.search(r"stopped by a signal, saved at step \d+", output + errors)
    assert "Traceback" not in output + errors
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


@pytest.mark.slow
def test_installed_wheel_has_its_topologies(tmp_path: Path, installed: Path, prepared_cache: Path) -> None:
    """test_docs.py tests the rest outside the checkout."""
    options: dict[str, Any] = {"cwd": tmp_path, "PYTHONPATH": str(installed)}
    program = str(installed / "bin" / "mlm-dist")
    assert __version__ in launching.run([program, "--version"], **options).stdout
    where = "from mlm_dist.engine.topologies import TOPOLOGIES as t; print(*(t[name] for name in t.names()))"
    paths = launching.run([sys.executable, "-c", where], **options).stdout.split()
    assert len(paths) == len(list((ROOT / "configs" / "accelerate").glob("*.yaml")))
    assert all(Path(path).is_relative_to(installed) for path in paths)
    common = (f"--corpus.cache_dir={prepared_cache}", f"--output_dir={tmp_path / 'run'}", *launching.TINY)
    launch = ("--topology", "cpu_2", f"--main_process_port={launching.free_port()}")
    for words in (("prepare", *common), ("train", *launch, *common, *QUICK)):
        ended = launching.run([program, *words], **options)
        assert ended.returncode == 0, ended.output
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text("utf-8"))["model_type"] == "bert"
