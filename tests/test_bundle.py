"""Models on disk: what is saved is loaded again, and what does not belong together is named."""

import json
import pickle

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gradalign import bundle as bundles
from gradalign.bundle import flat_params, load, save
from gradalign.errors import AlignmentError, FormatError
from gradalign.timing import FrameGrid


@pytest.fixture
def folder(tiny_bundle, tmp_path):
    save(tiny_bundle, tmp_path / "model")
    return tmp_path / "model"


def change(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    for key, value in entries.items():
        if isinstance(value, dict):
            config[key].update(value)
        else:
            config[key] = value
    (folder / "config.json").write_text(json.dumps(config))


def test_a_loaded_model_is_the_saved_one(tiny_bundle, folder):
    (folder / "card.md").write_text(tiny_bundle.card)
    found = load(folder)
    for field in ("name", "labels", "features", "max_duration_s", "card"):
        assert getattr(found, field) == getattr(tiny_bundle, field)
    assert found.network.config == tiny_bundle.network.config
    before, after = flat_params(tiny_bundle.network), flat_params(found.network)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert after[key].dtype == np.float32
        np.testing.assert_array_equal(after[key], value)


def test_a_model_that_cannot_be_saved_says_why(tiny_bundle, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FormatError, match=r"file: cannot be made .*choose another folder"):
        save(tiny_bundle, tmp_path / "file")


def test_half_precision_is_half_the_size_and_close(tiny_bundle, folder, tmp_path):
    save(tiny_bundle, tmp_path / "half", dtype=np.float16)
    whole, half = ((path / "params.safetensors").stat().st_size for path in (folder, tmp_path / "half"))
    assert half < 0.6 * whole
    after = flat_params(load(tmp_path / "half").network)
    for key, value in flat_params(tiny_bundle.network).items():
        assert after[key].dtype == np.float32
        np.testing.assert_allclose(after[key], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("precision", "fast", "kernels", "windows"),
    [
        (None, True, "float32", "bfloat16"),
        (None, False, "float32", "float32"),
        ("float32", True, "float32", "float32"),
        ("mixed", False, "float32", "bfloat16"),
        ("bfloat16", True, "bfloat16", "bfloat16"),
    ],
)
def test_windows_are_in_bfloat16_where_that_is_faster_or_asked_for(
    folder, monkeypatch, precision, fast: bool, kernels, windows
):
    monkeypatch.setattr("gradalign.bundle.fast_bfloat16", lambda: fast)
    network = load(folder, precision=precision).network
    assert network.windows_in == windows
    assert network.ctc_head.kernel[...].dtype == kernels


def test_a_loaded_network_computes_what_the_saved_one_does(tiny_bundle, folder, rng):
    features = jax.numpy.asarray(rng.normal(size=(8, 20)), np.float32)
    found, expected = (b.network.encode(features)[0] for b in (load(str(folder)), tiny_bundle))
    np.testing.assert_array_equal(found, expected)


def test_a_folder_without_a_card_has_an_empty_one(folder):
    (folder / "card.md").unlink(missing_ok=True)
    assert load(folder).card == ""


def test_grids_and_ids_follow_from_the_parts(tiny_bundle):
    assert tiny_bundle.grid == FrameGrid(16_000, 160)
    assert tiny_bundle.encoder_grid == FrameGrid(16_000, 640)
    np.testing.assert_array_equal(tiny_bundle.ids(("K", "A", "B", "A")), [3, 1, 2, 1])
    assert tiny_bundle.ids(()).shape == (0,)
    with pytest.raises(AlignmentError, match=r"model 'tiny' has no label for \['Q', 'Z'\]; it knows \['A', 'B', 'K'\]"):
        tiny_bundle.ids(("Z", "A", "Q", "Z"))


def test_nothing_is_unpickled(folder, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    monkeypatch.setattr(np, "load", never)
    assert load(folder).name == "tiny"
    (folder / "params.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(FormatError, match="unreadable or truncated parameters"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1, -1000])
def test_truncated_parameters_are_named_with_what_to_do(folder, keep):
    path = folder / "params.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FormatError, match=r"params\.safetensors: unreadable or truncated .*save the model anew"):
        load(folder)


def test_absent_parameters_are_named(folder):
    (folder / "params.safetensors").unlink()
    with pytest.raises(FormatError, match=r"params\.safetensors: unreadable"):
        load(folder)


def test_missing_extra_and_misshapen_parameters_are_all_named(folder):
    path = folder / "params.safetensors"
    params = load_file(path)
    del params["ctc_head.bias"]
    params["surplus"] = np.zeros(3, np.float32)
    params["decoder.embedding"] = np.zeros((5, 16), np.float32)
    save_file(params, path)
    with pytest.raises(
        FormatError,
        match=r"missing ctc_head\.bias; unexpected surplus; decoder\.embedding has shape \(5, 16\), "
        r"the config wants \(4, 16\)\. Put the config\.json",
    ):
        load(folder)


def test_the_config_of_another_model_is_found_out(folder):
    change(folder, network={"dim": 24})
    with pytest.raises(FormatError, match=r"belong to another config: .* and [0-9]+ more"):
        load(folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format": "other"}, 'not the config of a gradalign model .no "format": "gradalign-model"'),
        ({"version": 2}, "model format version 2, this gradalign reads 1; install"),
        ({"labels": ["A", "B"]}, "2 labels need vocabulary 3, got 4"),
        ({"features": {"n_mels": 40}}, "features of 40 mels do not fit a network of 20"),
        ({"network": {"heads": 3}}, "dim 16 must be a multiple of heads 3"),
        ({"network": {"depth": 3}}, "unexpected keyword argument 'depth'"),
        ({"network": None}, "not a config of a gradalign model"),
        ({"labels": 3}, "not a config of a gradalign model"),
        ({"max_duration_s": "long"}, "not a config of a gradalign model: could not convert"),
    ],
)
def test_a_wrong_config_has_its_message(folder, entries, message):
    change(folder, **entries)
    with pytest.raises(FormatError, match=rf"config\.json: .*{message}"):
        load(folder)


@pytest.mark.parametrize("key", ["name", "network", "features", "labels", "max_duration_s"])
def test_a_missing_entry_of_the_config_is_named(folder, key):
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match=key):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b"null", b"{}"])
def test_a_config_that_is_none_is_named(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"config\.json: (unreadable model config|not the config of a gradalign)"):
        load(folder)


def test_an_unknown_model_lists_those_that_come_with_the_package(folder, tmp_path, monkeypatch):
    for name in ("en-us", "zz-test"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text("{}")
    monkeypatch.setattr(bundles, "__file__", str(tmp_path / "gradalign" / "bundle.py"))
    with pytest.raises(FormatError, match="come with gradalign: none"):
        load("zz-test")  # "models" beside an installed package may be anybody's
    (tmp_path / "pyproject.toml").touch()
    with pytest.raises(FormatError, match=r"no model 'enus': .* come with gradalign: en-us, zz-test"):
        load("enus")
    assert bundles.folder_of("zz-test") == tmp_path / "models" / "zz-test"
    assert bundles.folder_of(folder) == folder


def test_without_models_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "__file__", str(tmp_path / "gradalign" / "bundle.py"))
    with pytest.raises(FormatError, match="come with gradalign: none"):
        load(tmp_path / "nowhere")
