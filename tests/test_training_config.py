"""Training configs: what a file says is what is run, and every mistake in it is named."""

from pathlib import Path

import pytest

from gradalign.errors import FormatError
from gradalign.training.config import TrainConfig, parse, read

SOURCE = {"train": [{"path": "a.jsonl"}]}


def test_a_file_sets_what_it_names_and_leaves_the_rest(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_text(
        'name = "mine"\n[data]\ntrain = [{ path = "a.jsonl", weights = { x = 2 } }]\n'
        'lengths = [160]\nshares = [1]\n[optimizer]\npeak = 1\n[network]\npositions = "none"\n'
    )
    config = read(path)
    assert config.name == "mine"
    assert config.data.train[0].path == "a.jsonl"
    assert config.data.train[0].weights == {"x": 2.0}
    assert config.data.shares == (1.0,)
    assert config.optimizer.peak == 1.0
    assert config.network.positions == "none"
    assert config.loss == TrainConfig().loss


def test_changes_are_lines_of_toml(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_text('[data]\ntrain = [{ path = "a.jsonl" }]\n[optimizer]\npeak = 1.0\nwarmup = 7\n')
    config = read(path, changes=["optimizer.peak=2e-3", "steps = 5", 'name="x"'])
    assert (config.optimizer.peak, config.optimizer.warmup, config.steps, config.name) == (2e-3, 7, 5, "x")
    with pytest.raises(FormatError, match=r"'name=x' changes no option: .*write it as in TOML"):
        read(path, changes=["name=x"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"stepz": 3}, r"no option stepz; there are .*steps"),
        ({"data": SOURCE, "loss": {"ctcc": 1.0}}, r"no option loss\.ctcc; there are ctc, "),
        ({"data": SOURCE, "steps": 2.5}, r"steps must be a whole number, got 2\.5"),
        ({"data": SOURCE, "steps": True}, r"steps must be a whole number, got True"),
        ({"data": SOURCE, "steps": 0}, r"steps must be at least 1, got 0"),
        ({"data": SOURCE, "loss": 3}, r"loss must be a table, \[loss\]"),
        ({"data": SOURCE, "loss": {"ctc": 1.5}}, r"loss\.ctc must lie in \[0, 1\], got 1\.5"),
        ({"data": SOURCE, "loss": {"ctc_blocks": [6]}}, r"ctc_blocks \(6,\) must increase within 1\.\.5"),
        ({"data": SOURCE | {"lengths": [100]}}, r"increasing multiples of 160 frames, got \(100,\)"),
        ({"data": SOURCE | {"lengths": ["a"]}}, r"data\.lengths must be a list, each a whole number, got \['a'\]"),
        ({"data": SOURCE | {"lengths": [160]}}, r"needs as many data\.shares"),
        ({"data": SOURCE | {"lengths": [160], "shares": [0.0]}}, r"data\.shares >= 0, not all 0"),
        ({"data": SOURCE, "loss": {"ctc_blocks": ["a"]}}, r"ctc_blocks must be a list, each a whole number"),
        ({"data": SOURCE, "loss": {"guided_steps": -1}}, r"loss\.guided_steps must be at least 0, got -1"),
        (
            {
                "data": SOURCE,
                "loss": {"saliency": 1.0, "saliency_stride": 8, "saliency_labels": 1, "saliency_boundary": 1},
            },
            r"saliency_boundary has no effect without .*at least 2, got 1\.0, 8 and 1",
        ),
        ({"data": SOURCE, "loss": {"saliency_leaf": "block-9"}}, r"loss\.saliency_leaf: no leaf 'block-9'; .* encoder"),
        (
            {"data": SOURCE, "optimizer": {"frozen": ["encoders"]}},
            r"optimizer\.frozen must be some of encoder, decoder, ctc_head, not all, got \('encoders',\)",
        ),
        ({"data": SOURCE, "optimizer": {"frozen": "encoder"}}, r"optimizer\.frozen must be a list, got 'encoder'"),
        ({"data": SOURCE, "optimizer": {"peak": -1.0}}, r"optimizer\.peak must be at least 0, got -1\.0"),
        ({"data": SOURCE, "optimizer": {"clip": 0}}, r"optimizer\.clip must be more than 0, got 0\.0"),
        ({"data": SOURCE, "optimizer": {"b2": 1}}, r"optimizer\.b2 must lie in \[0, 1\), got 1\.0"),
        ({"data": SOURCE, "features": {"n_mels": 40}}, r"network\.n_mels 80 must be features\.n_mels 40"),
        ({"data": {"train": ["a.jsonl"]}}, r"data\.train must be a list of tables such as"),
        ({"data": {"train": [{"path": "a", "weights": {"x": 0}}]}}, r"weights must be a table of numbers > 0"),
        ({"data": {"train": [{"path": "a", "wait": 1}]}}, r"knows path and weights, got \['path', 'wait'\]"),
        ({}, r"data\.train names no speech"),
        ({"data": SOURCE, "network": {"dim": 10}}, r"network: .*dim 10 must be a multiple of heads 4"),
        (
            {"data": SOURCE, "network": {"positions": "odd"}},
            r"network\.positions must be one of relative, absolute, both, none, got 'odd'",
        ),
        ({"data": SOURCE, "optimizer": {"method": "sgd"}}, r"optimizer\.method must be one of adamw, muon, got 'sgd'"),
        (
            {"data": SOURCE, "optimizer": {"schedule": "flat"}},
            r"optimizer\.schedule must be one of cosine, inverse_sqrt, got 'flat'",
        ),
    ],
)
def test_a_mistake_is_named_with_what_is_expected(table: dict, message: str):
    with pytest.raises(FormatError, match=rf"run\.toml: .*{message}"):
        parse(table, "run.toml")


def test_all_mistakes_are_named_at_once():
    with pytest.raises(FormatError, match=r"loss\.ctcc.*stepz"):
        parse({"stepz": 3, "loss": {"ctcc": 1.0}}, "run.toml")


def test_a_file_that_is_no_toml_is_named(tmp_path: Path):
    (tmp_path / "run.toml").write_text("steps: 3\n")
    with pytest.raises(FormatError, match=r"run\.toml: unreadable training config"):
        read(tmp_path / "run.toml")


def test_the_recipes_of_the_shipped_model_and_the_next_can_be_read():
    recipes = sorted((Path(__file__).parents[1] / "models" / "en-us").glob("train*.toml"))
    assert len(recipes) > 1
    assert {read(recipe).name for recipe in recipes} == {"en-us"}
