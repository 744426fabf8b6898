"""`mlm-dist keys`, `env` and `cache`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub.constants
import launching
import pytest

from mlm_dist import __version__
from mlm_dist.commands import cache, env
from mlm_dist.commands import keys as key_reference
from mlm_dist.config import Config, parse
from mlm_dist.config import keys as all_keys
from mlm_dist.corpus import cached
from mlm_dist.corpus.sources import recognize
from mlm_dist.errors import ConfigError, CorpusError, ModelError, UserError
from mlm_dist.files import lock
from mlm_dist.hub import require

DAY = 86400


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optim.lr", ["optim.lr"]),
        ("lr", ["optim.lr"]),
        ("--optim.lr", ["optim.lr"]),
        ("learning-rate", ["optim.lr"]),
        ("num_train_epochs", ["optim.duration"]),
        ("logging", ["logging.every"]),
        ("seed", ["seed"]),
        ("patien", ["validation.patience"]),
    ],
)
def test_keys_explains_a_key_by_any_name(word: str, expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    key_reference.main([word] if not word.startswith("--") else [word.removeprefix("--")])
    heads = [line.split(" = ")[0] for line in printed(capsys).splitlines() if line and not line.startswith(" ")]
    assert heads == expected


def test_keys_explains_all_keys_and_sections(capsys: pytest.CaptureFixture[str]) -> None:
    key_reference.main([])
    text = printed(capsys)
    assert [key for key in all_keys() if f"{key} = " not in text] == []
    key_reference.main(["validation"])
    heads = [line.split(" = ")[0] for line in printed(capsys).splitlines() if line and not line.startswith(" ")]
    assert heads == [key for key in all_keys() if key.startswith("validation.")]


def test_env_shows_versions_and_no_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    secret = "s3cr3t" * 4
    program = "import sys\nfrom mlm_dist.commands import env\nenv.main([])\nprint(sorted({'torch'} & set(sys.modules)))"
    ended = launching.run(
        [sys.executable, "-c", program],
        HF_TOKEN=f"hf_{secret}",
        WANDB_API_KEY=secret,
        HTTPS_PROXY=f"http://me:{secret}@proxy:3128",
        MLFLOW_TRACKING_URI=f"https://me:{secret}@mlflow/",
        HF_ENDPOINT=f"https://hub/hf_{secret}",
        TOKENIZERS_PARALLELISM="false",
        MY_OWN_VARIABLE="private",
    )
    assert ended.returncode == 0, ended.output
    assert ended.stdout.splitlines()[-1] == "[]", "torch is not imported, so that it is quick"
    assert secret not in ended.stdout and "private" not in ended.stdout
    lines = dict(line.split(maxsplit=1) for line in ended.stdout.splitlines()[:-1])
    assert lines["mlm_dist"].startswith(__version__)
    assert lines["HF_TOKEN"] == "(set, not shown)"
    assert lines["TOKENIZERS_PARALLELISM"] == "false"
    assert lines["HTTPS_PROXY"] == "http://proxy:3128"
    for name in (
        "python",
        "torch",
        "transformers",
        "accelerate",
        "deepspeed",
        "datasets",
        "tokenizers",
        "cpu",
        "cache",
    ):
        assert lines[name]


def test_env_lists_the_gpus_that_nvidia_smi_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\nif [ $# = 0 ]; then echo "Driver Version: 550.54 CUDA Version: 12.4 |"; exit; fi\n'
        'echo "NVIDIA H100 80GB HBM3, 81559 MiB, 9.0, 550.54"\necho "NVIDIA L4, 23034 MiB, 8.9, 550.54"\n',
        "utf-8",
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    env.main([])
    text = printed(capsys)
    assert "NVIDIA H100 80GB HBM3, 81559 MiB, compute capability 9.0" in text
    assert "NVIDIA L4" in text and "550.54, for CUDA up to 12.4" in text
    with pytest.raises(ConfigError, match="takes nothing"):
        env.main(["now"])


def test_xdg_cache_home_is_the_default_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert parse([]).corpus.cache_dir == Config().corpus.cache_dir == f"{tmp_path}/mlm_dist"
    assert parse(["--corpus.cache_dir=mine"]).corpus.cache_dir == "mine"
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert parse([]).corpus.cache_dir == "~/.cache/mlm_dist"


def corpus(cache_dir: Path, digest: str, days: float, *, is_prepared: bool = True) -> Path:
    """A corpus in a cache that was last used some days ago."""
    folder = cache_dir / (digest if is_prepared else f"{digest}.partial")
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "rows.arrow").write_bytes(bytes(1000))
    if is_prepared:
        manifest = {"sources": [{"location": f"docs-{digest[:2]}"}], "rows": {"train": 90, "validation": 10}}
        (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    then = time.time() - days * DAY
    os.utime(folder, (then, then))
    return folder


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    """A cache with three corpora, what else a cache holds, and what is not of this package."""
    cache_dir = tmp_path / "cache"
    corpus(cache_dir, "aa" * 8, 1)
    corpus(cache_dir, "ab" * 8, 40)
    corpus(cache_dir, "cc" * 8, 50, is_prepared=False)
    (cache_dir / "sources" / "git").mkdir(parents=True)
    (cache_dir / "rendezvous").mkdir()
    elsewhere = corpus(tmp_path / "elsewhere", "dd" * 8, 60)
    (cache_dir / ("dd" * 8)).symlink_to(elsewhere)
    return cache_dir


def names(cache_dir: Path) -> set[str]:
    """The corpora that are in a cache."""
    return {path.name[:2] for path in cache_dir.iterdir() if path.is_dir() and len(path.name) >= 16}


def test_cache_lists_corpora_by_their_last_use(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache.main([f"--cache_dir={corpora}"])
    lines = printed(capsys).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["aa" * 8, "ab" * 8, "cc" * 8]
    assert "100  1 day ago      docs-aa" in lines[1]
    assert "40 days ago" in lines[2] and "(interrupted)" in lines[3]
    assert any(line.startswith("3 corpora, 3.") for line in lines)
    assert all(len(line) <= 80 for line in lines[:4])
    cache.main([f"--cache_dir={corpora}/empty"])
    assert "0 corpora" in printed(capsys)


def test_prune_removes_by_age_and_only_corpora(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prune", "--older-than", "30d", f"--cache_dir={corpora}"]
    cache.main([*words, "--dry-run"])
    assert "would remove 2 corpora" in printed(capsys)
    assert names(corpora) == {"aa", "ab", "cc", "dd"}
    cache.main(words)
    assert "\nremoved 2 corpora" in printed(capsys)
    assert names(corpora) == {"aa", "dd"}, "a link is not followed, nor removed"
    assert (corpora.parent / "elsewhere" / ("dd" * 8) / "manifest.json").exists()
    assert (corpora / "sources" / "git").is_dir() and (corpora / "rendezvous").is_dir()
    assert not list(corpora.glob(".removed-*"))


def test_prune_removes_by_the_beginning_of_a_digest(corpora: Path) -> None:
    for digest, problem in (("a", "2 corpora"), ("e", "there is no corpus"), ("../elsewhere", "there is no corpus")):
        with pytest.raises(ConfigError, match=problem):
            cache.main(["prune", digest, "--cache_dir", str(corpora)])
    cache.main(["prune", "--dry_run", "aa", "--cache_dir", str(corpora)])
    assert names(corpora) == {"aa", "ab", "cc", "dd"}
    cache.main(["prune", "aa", "cc", "--cache_dir", str(corpora)])
    assert names(corpora) == {"ab", "dd"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prune"], "give either digests or --older-than"),
        (["prune", "aa", "--older-than=1d"], "give either digests or --older-than"),
        (["prune", "--older-than=30"], "must be like 12h, 30d or 4w"),
        (["prune", "--older-than"], "needs a value"),
        (["--older-than=30d"], "write mlm-dist cache prune"),
        (["purge"], "there is no 'purge'"),
        (["prune", "--olderthan=3d"], "did you mean '--older-than'?"),
    ],
)
def test_words_that_cache_does_not_know_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cache.main(words)


def test_prune_keeps_a_corpus_that_is_used_or_prepared(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A corpus is used until the process that loaded it ends, and prepared while its lock is held."""
    used, prepared = corpora / ("ab" * 8), lock(corpora / f"{'cc' * 8}.lock", wait=False)
    program = f"from pathlib import Path\nfrom mlm_dist.corpus import cached\ncached.use(Path({str(used)!r}))\ninput()"
    process = subprocess.Popen(
        [sys.executable, "-c", program + "\n"], stdin=subprocess.PIPE, env=launching.environment(), text=True
    )
    try:
        deadline = time.monotonic() + 120
        while time.time() - used.stat().st_mtime > DAY:
            assert time.monotonic() < deadline, "the use is noted"
            time.sleep(0.05)
        time.sleep(0.2)
        for dry_run in (["--dry-run"], []):
            cache.main(["prune", "ab", "cc", *dry_run, "--cache_dir", str(corpora)])
            output = printed(capsys)
            assert f"kept {'ab' * 8}: a run uses it" in output and f"kept {'cc' * 8}: a run uses it" in output
        assert names(corpora) == {"aa", "ab", "cc", "dd"}
    finally:
        process.communicate("\n", timeout=60)
        prepared.release()
    cache.main(["prune", "ab", "cc", "--cache_dir", str(corpora)])
    assert names(corpora) == {"aa", "dd"}


def test_a_job_notes_its_use_of_a_corpus(small: tuple[Path, int], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(small[0], tmp_path / "cache"))
    (found,) = cached.find(copy)
    os.utime(found.folder, (0, 0))
    flags = (f"--corpus.source={small[0] / 'documents'}", f"--corpus.cache_dir={copy}", *launching.TINY)
    assert launching.here("prepare", *flags).result.folder == found.folder
    (again,) = cached.find(copy)
    assert again.last_used > time.time() - DAY
    assert not cached.remove(again, dry_run=False), "this process still uses it"


def test_a_misspelt_folder_is_refused_at_once_with_its_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_docs" / "Guides").mkdir(parents=True)
    (tmp_path / "records.jsonl").touch()
    for given, near in (
        ("my_dcos", "my_docs"),
        ("./my_dcos", "./my_docs"),
        ("my-docs/", "my_docs"),
        ("MY_DOCS", "my_docs"),
        (f"{tmp_path}/my_doc", f"{tmp_path}/my_docs"),
        ("my_docs/guide", "my_docs/Guides"),
        ("my_dcos/guides", "my_docs/Guides"),
        ("record.jsonl", "records.jsonl"),
        ("python_docs", "python-docs"),
    ):
        with pytest.raises(CorpusError) as caught:
            recognize(given)
        assert str(caught.value) == f"corpus.source: {given} does not exist; did you mean {near}?"
    for given in ("nothing_like_it", "./nothing", "my_docs/qwertz", "a/b/c"):
        with pytest.raises(UserError, match="does not exist; give a folder"):
            recognize(given)
    assert recognize("owner/name") == "hub"


def test_a_misspelt_folder_of_a_model_is_refused_with_its_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "runs" / "mine" / "model").mkdir(parents=True)
    for given, near in (
        ("./runs/mnie", "./runs/mine"),
        ("runs/mine/modle", "runs/mine/model"),
        ("runs/min", "runs/mine"),
    ):
        with pytest.raises(ModelError, match=re.escape(f"did you mean {near}?")):
            require(given, "model.name_or_path")
