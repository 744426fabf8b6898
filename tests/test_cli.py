"""`mlm-dist`: its help and errors, what it launches, and that it works from an installed wheel."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import launching
import pytest
from launching import ROOT

from mlm_dist import __version__, cli, usage
from mlm_dist.config import keys, parse
from mlm_dist.config.presets import PRESETS
from mlm_dist.engine.topologies import TOPOLOGIES

QUICK = ("--optim.duration=2 steps", "--validation.every=null", "--checkpoint.every=null", "--export.verify=false")


def mlm_dist(*words: str, **options: object) -> launching.Ended:
    """`mlm-dist ...`."""
    return launching.run([sys.executable, "-m", "mlm_dist.program", *words], **options)  # type: ignore[arg-type]


def test_help_is_a_screen_and_loads_nothing_heavy() -> None:
    program = (
        "import sys, contextlib\nfrom mlm_dist import cli\n"
        "launched = ['train', '--topology', 'cpu_2', '-h']\n"
        "for words in (['--help'], ['train', '--help'], ['--version'], launched, ['keys'], ['compare', '--help']):\n"
        "    sys.argv[1:] = words\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        cli.main()\n"
        "print('heavy:', sorted({'torch', 'transformers', 'datasets', 'accelerate'} & set(sys.modules)))\n"
    )
    ended = launching.run([sys.executable, "-c", program])
    assert "heavy: []" in ended.stdout, ended.output
    assert __version__ in ended.stdout
    for name in (*usage.JOBS, *cli.COMMANDS, *PRESETS):
        assert f"  {name} " in ended.stdout
    assert ended.stdout.count("Usage: mlm-dist train [DOCS]") == 2
    for key in keys():
        assert f"{key} = " in ended.stdout, key


@pytest.mark.parametrize("job", list(usage.JOBS))
def test_help_of_a_job_names_its_options_and_fits_a_terminal(job: str) -> None:
    text = usage.text(f"mlm-dist {job}")
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 45
    for option in ("--topology NAME", "--preset NAME", "--config FILE", "--debug", "--help", "mlm-dist keys"):
        assert option in text
    assert all(name in text for name in (*PRESETS, "zero3_offload"))
    for key in usage.JOBS[job].keys:
        assert key in keys() and f"--{key} " in text


@pytest.mark.parametrize("job", list(usage.JOBS))
def test_examples_of_the_help_are_lines_that_are_parsed(job: str) -> None:
    lines = usage.text(f"mlm-dist {job}").splitlines()
    for example in usage.JOBS[job].examples:
        assert f"  mlm-dist {example}" in lines
        name, *words = shlex.split(example)
        assert name == job
        flags = cli.split_flags(words)
        if flags.topology is not None:
            assert flags.topology in TOPOLOGIES
        if words[0] == "my_docs":
            assert parse(flags.for_job).corpus.source == "my_docs"


def test_help_of_a_file_keeps_the_lines_of_its_docstring() -> None:
    text = usage.text("train.py", "Train.\n\n    python mlm_dist/train.py docs/\n    accelerate launch x\n")
    assert "\n    python mlm_dist/train.py docs/\n    accelerate launch x\n" in text


def test_every_job_is_a_file_with_a_run_function() -> None:
    for name in usage.JOBS:
        spec = importlib.util.find_spec(f"mlm_dist.{name}")
        assert spec is not None and spec.origin is not None, name
        text = Path(spec.origin).read_text("utf-8")
        assert "\ndef run(config: Config" in text, name
        assert "\n    runtime.main(run, " in text, name
        assert ("of_a_run=True" in text) == usage.JOBS[name].of_a_run, name
        assert ("read=parse_search_model" in text) == usage.JOBS[name].of_documents_or_run, name


WRONG = {
    "no job": ([], "plan, prepare, train"),
    "a job of another tool": (["eval", "runs/mine"], "write mlm-dist validate"),
    "no job but documents": (["tests"], "write mlm-dist train tests"),
    "key of another tool": (["train", "--lr", "3e-5"], "--optim.lr 3e-5"),
    "key of another tool in a launch": (["train", "--topology=cpu_2", "--fp16"], "--mixed_precision fp16"),
    "misspelt folder": (["prepare", "tets"], "corpus.source: tets does not exist; did you mean tests?"),
    "switch of the launcher before a word": (["train", "--topology=cpu_2", "--multi_gpu", "docs"], "takes no value"),
    "password in place of a job": (["https://me:pass@host/x"], "there is no job 'https://host/x'"),
    "password in a flag of another tool": (
        ["train", "--data=https://me:pass@host/x"],
        "--corpus.source https://host/x",
    ),
    "missing run": (["report", "runs/there is none"], "does not exist"),
    "unknown key in the reference": (["keys", "xyzzy"], "unknown key 'xyzzy'"),
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
    "launcher's flag without topology": (["train", "--num_processes=2"], "need --topology: --topology ddp"),
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
    assert "pass@" not in ended.output


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


def test_bash_completes_jobs_keys_values_and_paths(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(mlm_dist("--print_completion", "bash").stdout, "utf-8")
    (tmp_path / "my_docs").mkdir()
    (tmp_path / "my_run.yaml").touch()
    for words, expected in (
        (["tr"], {"train"}),
        (["train", "--topology", "zero3_"], {"zero3_offload"}),
        (["train", "--preset", "continue_"], {"continue_modernbert"}),
        (["plan", "--optim.sch"], {"--optim.schedule"}),
        (["plan", "--optim.schedule", "cos"], {"cosine"}),
        (["plan", "--model.from_scratch", "t"], {"true"}),
        (["train", "my_d"], {"my_docs"}),
        (["report", "my_"], {"my_docs"}),
        (["train", "--config", "my_r"], {"my_run.yaml"}),
        (["train", "--corpus.source", "my_d"], {"my_docs"}),
        (["train", "--output_dir", "my_"], {"my_docs"}),
        (["keys", "optim.sch"], {"optim.schedule"}),
        (["cache", "pru"], {"prune"}),
    ):
        line = " ".join(f"'{word}'" for word in words)
        program = (
            f"source '{script}'; COMP_WORDS=(mlm-dist {line}); COMP_CWORD={len(words)}; _shtab_mlm_dist; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert set(done.stdout.split()) == expected, (words, done.stdout, done.stderr)


def test_words_are_split_into_those_of_the_job_and_of_the_launcher() -> None:
    words = "--topology zero2 --num_processes 4 --optim.lr 3e-5 --seed 1 --mixed_precision=bf16 --config a.yaml --debug"
    split = words.split()
    expected = ["--optim.lr=3e-5", "--seed=1", "--config=a.yaml"]
    for i in (0, 2, 4, 6, 8, 9, 11, 12):  # in any position, a word without a flag is the job's
        flags = cli.split_flags([*split[:i], "docs", *split[i:]])
        assert (flags.topology, flags.debug) == ("zero2", True)
        assert [word for word in flags.for_job if word != "docs"] == expected
        assert flags.for_job.count("docs") == 1
        assert flags.for_launcher == ["--num_processes=4", "--mixed_precision=bf16"]


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
        assert any(re.search(r"step +2/", line) for line in process.stdout)
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
def test_a_word_without_a_flag_reaches_the_launched_job(tmp_path: Path, folder: Path) -> None:
    words = ("--topology", "cpu_2", "--main_process_port", str(launching.free_port()))
    common = (f"--corpus.cache_dir={tmp_path / 'cache'}", *launching.TINY)
    ended = mlm_dist("plan", *words, str(folder), *common)
    assert ended.returncode == 0, ended.output
    assert f"{folder}, not prepared yet" in " ".join(ended.stdout.replace("│", "").split())
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("next: ")]
    assert line == f"next: mlm-dist train {shlex.join([*words, str(folder), *common])}"
    ended = launching.accelerate("cpu_2", "prepare.py", str(folder), *common)
    assert ended.returncode == 0, ended.output
    assert str(folder) in " ".join(ended.stdout.replace("│", "").split())


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
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text("utf-8"))["model_type"] == "modernbert"


def test_module_is_the_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["cli.py", "--help"])
    with pytest.raises(SystemExit) as ended:  # as python -m mlm_dist.cli does
        runpy.run_path(str(cli.__file__), run_name="__main__")
    assert ended.value.code == 0 and "Usage: mlm-dist JOB" in capsys.readouterr().out
