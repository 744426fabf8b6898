"""Rows with more tokens than a model has positions: the positions of checkpoints are interpolated."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import launching
import pytest
import test_model
import torch
from models import architecture, build
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from mlm_dist import plan
from mlm_dist.config import parse
from mlm_dist.errors import ModelError
from mlm_dist.model.architecture import added_positions
from mlm_dist.model.positions import first_position, max_positions, stretched

HAD = 40  # max_position_embeddings of the configurations
SMALL = test_model.SMALL | {
    "max_position_embeddings": HAD,
    "initializer_range": 0.5,  # with the default, attention hardly depends on positions
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
LEARNED = ("bert", "roberta", "distilbert", "albert", "electra", "mpnet", "esm")
TABLES = {name: test_model.SHAPES[name] for name in LEARNED} | {"deberta": {}, "deberta-v2": RELATIVE}
ROTARY: dict[str, dict[str, Any]] = {"nomic_bert": {}, "eurobert": SPECIAL | {"mask_token_id": 4}}


class Longer:
    """A small checkpoint, and the model that is built from it for longer rows."""

    def __init__(self, folder: Path, name: str, length: int, *flags: str, **changes: Any) -> None:
        torch.manual_seed(0)
        fields = SMALL | TABLES.get(name, {}) | ROTARY.get(name, {}) | changes
        AutoModelForMaskedLM.from_config(CONFIG_MAPPING[name](**fields)).save_pretrained(folder)
        self.before = AutoModelForMaskedLM.from_pretrained(folder)
        config = parse([f"--model.name_or_path={folder}", f"--rows.max_length={length}", *flags])
        self.config = architecture(config)
        self.added = added_positions(config.model, length)
        self.model = build(config, self.config).eval()
        self.first = first_position(self.config)

    @property
    def tables(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Pairs of parameters that differ in shape."""
        after = dict(self.model.named_parameters())
        pairs = [(table, after[name]) for name, table in self.before.named_parameters()]
        return [(one.detach(), other.detach()) for one, other in pairs if one.shape != other.shape]

    def has_the_same_weights(self) -> bool:
        """Whether all parameters of the same shape are equal."""
        after = dict(self.model.named_parameters())
        return all(
            torch.equal(value, after[name])
            for name, value in self.before.named_parameters()
            if value.shape == after[name].shape
        )


@torch.no_grad()
def logits_of(model: Any, input_ids: torch.Tensor, **given: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=input_ids, **given).logits
    return found


def test_positions_are_counted_behind_the_padding_index() -> None:
    assert max_positions(CONFIG_MAPPING["bert"](max_position_embeddings=512)) == 512
    assert max_positions(CONFIG_MAPPING["roberta"](max_position_embeddings=514, pad_token_id=1)) == 512


# --- checkpoints ---


@pytest.mark.parametrize("name", list(TABLES))
def test_tables_are_interpolated(name: str, tmp_path: Path) -> None:
    """With one new position between any two old ones, tokens at every other position give the same logits."""
    had = max_positions(CONFIG_MAPPING[name](**SMALL | TABLES[name])) or 0
    made = Longer(tmp_path, name, 2 * had - 1)
    ((old, new),) = made.tables
    special = HAD - had
    assert special == (2 if name in ("roberta", "mpnet", "esm") else 0)
    assert torch.equal(new[: special + 1], old[: special + 1]) and torch.equal(new[-1], old[-1])
    torch.testing.assert_close(new[special::2], old[special:])
    torch.testing.assert_close(new[special + 1 :: 2], (old[special:-1] + old[special + 1 :]) / 2)
    assert made.has_the_same_weights()
    assert max_positions(made.config) == max_positions(made.model.config) == 2 * had - 1
    assert f"the {had} positions of {tmp_path} become {2 * had - 1}, linearly interpolated" in (made.added or "")

    input_ids = torch.randint(5, 120, (2, 16))
    if name != "deberta-v2":  # its attention depends on distances as well
        apart = (2 * torch.arange(16) + made.first).expand(2, -1)
        torch.testing.assert_close(
            logits_of(made.model, input_ids, position_ids=apart), logits_of(made.before, input_ids)
        )
    whole = torch.randint(5, 120, (2, 2 * had - 1))
    assert logits_of(made.model, whole).isfinite().all()
    made.model.save_pretrained(tmp_path / "longer")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "longer")
    torch.testing.assert_close(logits_of(again, whole), logits_of(made.model, whole))


def test_positions_on_a_line_stay_on_it(tmp_path: Path) -> None:
    """For any number of new positions."""
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(CONFIG_MAPPING["roberta"](**SMALL))
    table, slope = model.base_model.embeddings.position_embeddings.weight, torch.randn(32)
    with torch.no_grad():
        table[2:] = 1 + torch.arange(38)[:, None] * slope
    model.save_pretrained(tmp_path)
    config = parse([f"--model.name_or_path={tmp_path}", "--rows.max_length=101"])
    found = build(config, architecture(config)).base_model.embeddings.position_embeddings.weight
    torch.testing.assert_close(found[2:], 1 + torch.arange(101)[:, None] * 37 / 100 * slope)
    assert torch.equal(found[:2], table[:2])


@pytest.mark.parametrize("name", list(ROTARY))
def test_rotary_angles_are_interpolated(name: str, tmp_path: Path) -> None:
    made = Longer(tmp_path, name, 2 * HAD)
    assert made.added == (
        f"the 40 positions of {tmp_path} become 80, rotary angles linearly interpolated by a factor of 2"
    )
    assert made.has_the_same_weights() and not made.tables
    input_ids = torch.randint(5, 120, (2, 16))
    apart = (2 * torch.arange(16)).expand(2, -1)
    expected = logits_of(made.before, input_ids)
    torch.testing.assert_close(logits_of(made.model, input_ids, position_ids=apart), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(logits_of(made.model, input_ids), expected, atol=1e-4)
    made.model.save_pretrained(tmp_path / "longer")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "longer")
    whole = torch.randint(5, 120, (2, 2 * HAD))
    torch.testing.assert_close(logits_of(again, whole), logits_of(made.model, whole))
    assert again.config.max_position_embeddings == 2 * HAD


def test_sliding_layers_keep_their_angles(tmp_path: Path) -> None:
    """After one interpolation, and after another one of its result."""
    first = Longer(tmp_path, "modernbert", 2 * HAD, num_hidden_layers=4, **SPECIAL)
    first.model.save_pretrained(tmp_path / "first")
    config = parse([f"--model.name_or_path={tmp_path / 'first'}", f"--rows.max_length={3 * HAD}"])
    second = build(config, architecture(config))
    old, twice, thrice = (dict(model.named_buffers()) for model in (first.before, first.model, second))
    full, near = (f"model.rotary_emb.{kind}_attention_inv_freq" for kind in ("full", "sliding"))
    torch.testing.assert_close(twice[full], old[full] / 2)
    torch.testing.assert_close(thrice[full], old[full] / 3)
    assert torch.equal(twice[near], old[near]) and torch.equal(thrice[near], old[near])


@pytest.mark.parametrize("name", ["deberta", "deberta-v2"])
def test_relative_positions_up_to_the_longest_distance_stay_the_same(name: str, tmp_path: Path) -> None:
    buckets = {"position_buckets": 8} if name == "deberta-v2" else {}
    made = Longer(tmp_path, name, 2 * HAD, position_biased_input=False, **RELATIVE, **buckets)
    assert "distances over 40 count as 40" in (made.added or "") and "interpolated" not in (made.added or "")
    assert made.has_the_same_weights() and not made.tables
    input_ids = torch.randint(5, 120, (2, HAD))
    torch.testing.assert_close(logits_of(made.model, input_ids), logits_of(made.before, input_ids))
    assert logits_of(made.model, torch.randint(5, 120, (2, 2 * HAD))).isfinite().all()


def test_buffers_are_kept() -> None:
    """I-BERT stores the ranges of its activations in buffers."""
    model = AutoModelForMaskedLM.from_config(CONFIG_MAPPING["ibert"](**SMALL))
    ranges = {name: buffer for name, buffer in model.named_buffers() if name.endswith(("x_min", "x_max"))}
    for buffer in ranges.values():
        buffer.add_(torch.rand(()))
    found = dict(stretched(model, 2 * HAD).named_buffers())
    assert ranges and all(torch.equal(found[name], buffer) for name, buffer in ranges.items())
    assert found["ibert.embeddings.position_ids"].shape == (1, 2 * HAD)


def test_more_positions_than_rows_need(tmp_path: Path) -> None:
    made = Longer(tmp_path, "bert", 16, "--model.overrides.max_position_embeddings=79")
    ((old, new),) = made.tables
    torch.testing.assert_close(new[::2], old)
    assert "the 40 positions" in (made.added or "") and "become 79" in (made.added or "")


def test_sufficient_positions_stay_the_same(tmp_path: Path) -> None:
    for name in ("bert", "nomic_bert"):
        made = Longer(tmp_path / name, name, HAD)
        assert made.added is None and not made.tables and made.has_the_same_weights()
        assert made.config.max_position_embeddings == HAD
        input_ids = torch.randint(5, 120, (2, HAD))
        assert torch.equal(logits_of(made.model, input_ids), logits_of(made.before, input_ids))


REFUSED: dict[str, tuple[str, dict[str, Any], tuple[str, ...], str]] = {
    "a table that is not learned": (
        "roformer",
        {"embedding_size": 32},
        (),
        r"rows.max_length: 80 is more than the 40 positions of .*cannot be interpolated; lower it to 40",
    ),
    "angles of another kind": (
        "nomic_bert",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
        (),
        r"rows.max_length: 80 is more than the 40 positions of .*cannot be interpolated; lower it to 40",
    ),
    "an impossible shape": (
        "bert",
        {},
        ("--model.overrides.num_attention_heads=3",),
        r"model.overrides: bert cannot be built with them",
    ),
    "the user's own number": (
        "roberta",
        {},
        ("--model.overrides.max_position_embeddings=81",),
        r"model.overrides.max_position_embeddings: 81 is too small for rows.max_length 80; raise it to 82",
    ),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_impossible_positions_are_refused(what: str, tmp_path: Path) -> None:
    name, changes, flags, message = REFUSED[what]
    with pytest.raises(ModelError, match=message):
        Longer(tmp_path, name, 2 * HAD, *flags, **changes)


# --- from scratch ---


@pytest.mark.parametrize(("name", "had", "first"), [("bert-tiny", 512, 0), ("roberta", 511, 1), ("eurobert", 8192, 0)])
def test_models_from_scratch_have_as_many_positions_as_rows_need(name: str, had: int, first: int) -> None:
    def configuration(*flags: str) -> Any:
        return architecture(parse([f"--model.name_or_path={name}", *flags]))

    plain, found = configuration(), configuration("--rows.max_length=9000")
    added = added_positions(parse([f"--model.name_or_path={name}"]).model, 9000)
    assert added == f"{name} gets 9,000 positions instead of {had:,}, from scratch"
    assert found.max_position_embeddings == 9000 + first
    changed = {key for key, value in found.to_dict().items() if value != plain.to_dict()[key]}
    assert changed == {"max_position_embeddings"}, "angles of a model from scratch stay the same"
    with pytest.raises(ModelError, match=r"512 is too small for rows.max_length 9000"):
        configuration("--rows.max_length=9000", "--model.overrides.max_position_embeddings=512")


# --- a run ---


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Path:
    """A checkpoint with 24 positions; its tokenizer's model_max_length is 24."""
    folder = tmp_path_factory.mktemp("start")
    found = next(path for path in prepared_cache.iterdir() if (path / "tokenizer").is_dir())
    tokenizer = AutoTokenizer.from_pretrained(found / "tokenizer")
    tokenizer.model_max_length = 24
    tokenizer.save_pretrained(folder)
    fields = SMALL | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    fields["max_position_embeddings"] = 24 + tokenizer.pad_token_id + 1
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(CONFIG_MAPPING["roberta"](**fields)).save_pretrained(folder)
    return folder


def train(run: Path, start: Path, folder: Path, *flags: str, topology: str = "") -> launching.Ended:
    """A run from that checkpoint on rows of 64, on one process or on two of a topology."""
    source = (f"--corpus.source={folder}", f"--corpus.cache_dir={run.parent / 'cache'}", f"--output_dir={run}")
    model = (f"--model.name_or_path={start}", "--rows.max_length=64", "--export.verify=false")
    if topology:
        two = ("--num_processes=2", "--mixed_precision=no")
        ended = launching.accelerate(topology, "train.py", *source, *model, *flags, launch=two)
    else:
        ended = launching.python("train.py", *source, *model, *flags)
    assert ended.returncode == 0, ended.output
    return ended


@pytest.mark.slow
def test_exported_model_has_the_new_length(tmp_path: Path, start: Path, folder: Path) -> None:
    run = tmp_path / "run"
    ended = train(run, start, folder, "--optim.duration=2 steps")
    line = f"rows.max_length: the 24 positions of {start} become 64, linearly interpolated"
    assert ended.stdout.count(line) == 1, ended.output

    tokenizer, model = AutoTokenizer.from_pretrained(run / "model"), AutoModelForMaskedLM.from_pretrained(run / "model")
    batch = tokenizer(["ledger " * 200, "row"], truncation=True, padding=True, return_tensors="pt")
    assert batch["input_ids"].shape == (2, 64)
    assert logits_of(model, **batch).isfinite().all()
    config = AutoConfig.from_pretrained(run / "model")
    assert max_positions(config) == 64
    # Two steps hardly move them from the line between the old ones.
    old = AutoModelForMaskedLM.from_pretrained(start).base_model.embeddings.position_embeddings.weight
    new = model.base_model.embeddings.position_embeddings.weight
    torch.testing.assert_close(new[[-64, -1]], old[[-24, -1]], atol=1e-3, rtol=0)


def test_plan_shows_the_interpolation(start: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mlm_dist")
    found = plan.run(parse([f"--model.name_or_path={start}", "--rows.max_length=64"]))
    text = "".join(re.findall(r"[^│\s]+", caplog.text))  # the table breaks long lines
    assert f"the 24 positions of {start} become 64, linearly interpolated".replace(" ", "") in text
    assert max_positions(found.architecture) == 64


@pytest.mark.slow
def test_run_on_longer_rows_resumes(tmp_path: Path, start: Path, folder: Path) -> None:
    """Its model is then validated at its new length."""
    every = ("--optim.schedule=constant", "--logging.every=1")
    for name, parts in (("whole", (4,)), ("parts", (2, 4))):
        for steps in parts:
            ended = train(tmp_path / name, start, folder, *every, f"--optim.duration={steps} steps")
    assert "resuming from" in ended.output
    whole, continued = (
        [line["loss"] for line in launching.metrics(tmp_path / name, "train")] for name in ("whole", "parts")
    )
    assert len(whole) == 4 and whole == continued
    ended = launching.python("validate.py", f"--output_dir={tmp_path / 'parts'}")
    assert ended.returncode == 0, ended.output
    assert "become 64" not in ended.output, "the exported model has 64 positions"


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["cpu_2", "zero3"])
def test_two_processes_interpolate_as_one_does(topology: str, tmp_path: Path, start: Path, folder: Path) -> None:
    one, two = (tmp_path / name for name in ("one", "two"))
    for run, on in ((one, ""), (two, topology)):
        ended = train(
            run, start, folder, "--optim.duration=4 steps", "--batch.global_size=4", "--logging.every=1", topology=on
        )
        assert "become 64" in ended.output
    expected, found = ([line["loss"] for line in launching.metrics(run, "train")] for run in (one, two))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pad", [0, 1, 3])
def test_mpnet_has_positions_for_whole_rows_whatever_its_padding_token(pad: int) -> None:
    from transformers import MPNetConfig, MPNetForMaskedLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = MPNetConfig(vocab_size=50, max_position_embeddings=20, pad_token_id=pad, **sizes)
    length = max_positions(config)
    assert length == 18
    model = MPNetForMaskedLM(config)
    assert model(torch.full((1, length), 5)).logits.shape == (1, 18, 50)
    with pytest.raises(IndexError):
        model(torch.full((1, length + 1), 5))
