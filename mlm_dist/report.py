"""Write what a run did, and what its model learnt, as one page: report.html in the run's directory.

    python mlm_dist/report.py --output_dir runs/mine

It reads what is on the disk, so it also works while the run is going, or after it was interrupted. Training writes the
same page at its end. The page needs no network and no other file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlm_dist import runtime
from mlm_dist.checkpoint import find
from mlm_dist.config import Config, to_yaml
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ConfigError, UserError, reason
from mlm_dist.evaluation.fill_mask import Guess, guess
from mlm_dist.export import load_checkpoint, public
from mlm_dist.files import write_bytes, write_json
from mlm_dist.pages.blanks import Blank, choose
from mlm_dist.pages.page import Comparison, Content, page
from mlm_dist.pages.record import Record, read_record

ABOUT_THE_CORPUS = ("source", "documents", "tokens", "rows", "notes", "config")


def main(config: Config) -> None:
    """Write the report of the run in output_dir."""
    if runtime.is_main_process():
        runtime.say(f"written to {_write(config)}")


def begin(run: Path, model: Any, corpus: PreparedCorpus) -> None:
    """Keep in report.json what is gone later: the starting model's guesses, and what the corpus was.

    A run that goes on keeps what it has; where there is nothing, the starting model is at hand all the same, because it
    follows from seed and config. What goes wrong is said, and does not end the run.

    Args:
        run: The run directory.
        model: The starting model, on the main process, before it is sharded or trained.
        corpus: What it will be trained on.
    """
    place = run / "report.json"
    if not place.exists():
        _or_say_why("what the starting model fills in was not recorded", lambda: _begin(place, model, corpus))


def end(config: Config) -> None:
    """Write the page at the end of training, on the main process; what goes wrong is said, and does not end the run."""
    if runtime.is_main_process():
        _or_say_why("the report was not written", lambda: _write(config))


def _begin(place: Path, model: Any, corpus: PreparedCorpus) -> None:
    max_length = corpus.manifest["config"]["rows"]["max_length"]
    blanks = choose(corpus.documents(), corpus.tokenizer, max_length) if corpus.manifest["rows"]["validation"] else []
    kept = {
        "corpus": {name: corpus.manifest[name] for name in ABOUT_THE_CORPUS if name in corpus.manifest},
        "blanks": [asdict(blank) for blank in blanks],
        "before": [asdict(found) for found in guess(model, corpus.tokenizer, blanks)],
    }
    write_json(place, kept, indent=1)


def _or_say_why(what: str, work: Callable[[], object]) -> None:
    try:
        work()
    except Exception as error:  # a page is no reason to lose a run
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        runtime.say(f"WARNING: {what} ({kind}{reason(error)})")


def _write(config: Config) -> Path:
    """Gather what there is of a run, and write the page.

    Raises:
        ConfigError: There is no run in output_dir.
    """
    run = Path(config.output_dir).expanduser()
    if not (run / "metrics.jsonl").is_file():
        raise ConfigError(f"output_dir: there is no run in {run} (no metrics.jsonl); name a run's directory")
    record = read_record(run)
    warnings: list[str] = []
    corpus, comparison = None, None
    try:
        kept = json.loads((run / "report.json").read_text("utf-8"))
        corpus = kept["corpus"]
        blanks = [Blank(**blank) for blank in kept["blanks"]]
        before = [Guess(**found) for found in kept["before"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.append(f"report.json cannot be read ({reason(error)}): what the run began with is not shown.")
    else:
        after, step = None, 0
        try:
            if blanks and (trained := _trained(config, run, record)) is not None:
                model, tokenizer, step = trained
                after = guess(model, tokenizer, blanks)
        except (UserError, OSError, ValueError) as error:
            warnings.append(f"The trained model cannot be loaded, so what it fills in is not shown: {reason(error)}.")
        comparison = Comparison(blanks, before, after, step)
    validated, probe = (_found(run / name, warnings) for name in ("validation.json", "probe.json"))
    content = Content(
        run.resolve().name, record, corpus, comparison, to_yaml(public(config)), warnings, validated, probe
    )
    write_bytes(run / "report.html", page(content).encode("utf-8", "backslashreplace"), durable=False)
    for warning in warnings:
        runtime.say(f"WARNING: report.html: {warning}")
    return run / "report.html"


def _found(path: Path, warnings: list[str]) -> dict[str, Any] | None:
    """What the validate job left, if it was run."""
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.append(f"{path.name} cannot be read ({reason(error)}): what the validate job found is not shown.")
        return None
    return found


def _trained(config: Config, run: Path, record: Record) -> tuple[Any, Any, int] | None:
    """The run's model, its tokenizer and its update: what a finished run exported, else the newest good checkpoint."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = run / "model"
    if record.is_finished and (folder / "config.json").is_file():
        model = AutoModelForMaskedLM.from_pretrained(folder, dtype="float32", trust_remote_code=False)
        return model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False), record.exported_step
    point, _ = find.newest(run / "checkpoints")
    if point is None:
        return None
    model, corpus, step = load_checkpoint(config, point)
    return model, corpus.tokenizer, step


if __name__ == "__main__":
    runtime.run(main, prog="report.py", description=__doc__, of_a_run=True)
