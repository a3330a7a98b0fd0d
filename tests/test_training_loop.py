"""The training run: resumed as if unbroken, the same on two devices, stopped by a NaN with nothing lost."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import soundfile
from flax import nnx
from jax.sharding import Mesh

from gradalign.bundle import load, save
from gradalign.cli import main
from gradalign.errors import FormatError, GradalignError
from gradalign.nn.aed import AED
from gradalign.training.checkpoint import TrainState
from gradalign.training.config import RemedyConfig, read
from gradalign.training.data import Batch, Corpus, batch, mixture
from gradalign.training.flops import matmul_flops, matmul_peak
from gradalign.training.loop import train
from gradalign.training.measure import measure, reversal_warning
from gradalign.training.optimizer import optimizer, schedule
from gradalign.training.update import place, saliency_due, settings_of, shares_at, update

PHONES = ("AA", "K", "S", "M")


@pytest.fixture(scope="module", autouse=True)
def kept_programs(program_folder):
    """Runs of this file compile the same programs again and again: its processes too find those that are kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", program_folder)
        yield


@pytest.fixture(autouse=True)
def few_programs():
    """Runs hold many programs at once; see `forget_programs`."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Tones, one for each phone, with exact times."""
    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(3)
    lines = []
    for number in range(40):
        said = rng.integers(0, 4, size=rng.integers(3, 7))
        edges = np.concatenate([[0.0], np.cumsum(rng.uniform(0.12, 0.2, size=len(said)))])
        t = np.arange(round(16_000 * edges[-1])) / 16_000
        pitch = 300.0 * 2.0 ** said[np.searchsorted(edges, t, side="right").clip(1, len(said)) - 1]
        samples = 0.3 * np.sin(2 * np.pi * pitch * t) + 0.01 * rng.normal(size=len(t))
        soundfile.write(folder / f"{number}.wav", samples, 16_000)
        phones = [[round(a, 4), round(b, 4), PHONES[i]] for a, b, i in zip(edges, edges[1:], said, strict=False)]
        lines.append({"audio_filepath": f"{number}.wav", "text": "tones", "id": f"tones-{number}", "phones": phones})
    (folder / "tones.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.toml").write_text(
        'name = "tones"\nsteps = 12\n[network]\ndim = 16\nheads = 2\nencoder_layers = 2\ndecoder_layers = 1\n'
        "feed_forward_dim = 32\nstem_channels = 4\nconv_kernel = 5\nn_mels = 20\n[features]\nn_mels = 20\n"
        '[data]\ntrain = [{ path = "tones.jsonl" }]\nhold_out = 0.1\nframes_per_batch = 640\nlengths = [160]\n'
        "shares = [1.0]\n[optimizer]\nwarmup = 3\n[augment]\nstart_step = 2\nfull_step = 6\n[loss]\nctc_blocks = [1]\n"
        "guided_steps = 4\n[run]\nreport_every = 4\ncheckpoint_every = 4\ndev_every = 6\nexport_every = 0\n"
    )
    return folder


@pytest.fixture(scope="module")
def config(recordings: Path):
    return read(recordings / "run.toml")


@pytest.fixture(scope="module")
def still(config):
    """A run that learns nothing and ends as soon as it may."""
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, peak=0.0),
        run=dataclasses.replace(config.run, dev_every=1, patience=2),
    )


@pytest.fixture(scope="module")
def unbroken(recordings: Path, config, tmp_path_factory):
    """A run from start to end, and the lines it reported."""
    out, lines = tmp_path_factory.mktemp("unbroken"), []
    done = train(config, out, data=recordings, report=lines.append)
    return out, done, lines


def params(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "params.safetensors")


def assert_same(left: Path, right: Path) -> None:
    ours, theirs = params(left), params(right)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_a_run_leaves_models_metrics_and_its_config(unbroken):
    out, done, lines = unbroken
    assert (done.step, done.reason) == (12, "finished")
    assert load(done.model).name == "tones"
    assert done.best == out / "models" / "best"
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["part"]) for line in logged] == [
        (1, "train"),
        (4, "train"),
        (6, "dev"),
        (8, "train"),
        (12, "train"),
        (12, "dev"),
    ]
    assert done.per == min(line["per"] for line in logged if line["part"] == "dev")
    assert json.loads((out / "config.json").read_text())["steps"] == 12
    assert any("of matmul peak" in line for line in lines)
    assert list((out / "tensorboard").iterdir())
    assert sorted(folder.name for folder in (out / "models").iterdir()) == ["best", "last"]  # no drafts


def test_a_run_broken_and_resumed_is_the_unbroken_one(unbroken, recordings: Path, config, tmp_path: Path):
    out, _, _ = unbroken
    for stop_after in (5, None):
        done = train(config, tmp_path, data=recordings, resume=True, stop_after=stop_after)
    assert done.reason == "finished"
    assert_same(out / "models" / "last", tmp_path / "models" / "last")
    assert_same(out / "models" / "best", tmp_path / "models" / "best")
    # The means of a window that was broken are over less; what is measured on the same state is the same.
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (out, tmp_path)
    )
    assert [line for line in ours if line["part"] == "dev"] == [line for line in theirs if line["part"] == "dev"]
    assert [line["step"] for line in theirs if line["part"] == "train" and line["step"] % 4 == 0] == [4, 8, 12]


def test_a_killed_process_resumes_bit_for_bit(unbroken, recordings: Path, tmp_path: Path):
    command = [sys.executable, "-m", "gradalign", "train", str(recordings / "run.toml"), "-o", str(tmp_path / "run")]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL)
    checkpoint = tmp_path / "run" / "checkpoints" / "4"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.05)
    time.sleep(float(np.random.default_rng().uniform(0.0, 0.5)))  # anywhere after that, or even finished
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*command, "--resume"], env=os.environ, stdout=subprocess.DEVNULL, check=True)
    assert_same(unbroken[0] / "models" / "last", tmp_path / "run" / "models" / "last")


def test_a_finished_run_resumed_writes_its_last_model_again(
    unbroken, recordings: Path, config, tmp_path: Path, monkeypatch
):
    out = tmp_path / "run"
    shutil.copytree(unbroken[0], out)
    shutil.rmtree(out / "models" / "last")
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "pa')  # cut off by a crash
    lines = []
    done = train(config, out, data=recordings, resume=True, report=lines.append)
    assert (done.step, done.reason) == (12, "finished")
    assert "resumed after update 12 of 12" in lines
    assert_same(unbroken[0] / "models" / "last", out / "models" / "last")
    assert (out / "metrics.jsonl").read_text() == (unbroken[0] / "metrics.jsonl").read_text()


def test_every_option_of_the_method_runs(recordings: Path, config, tmp_path: Path):
    """No CTC head, remedies, saliency, Muon, bfloat16 and inverse square root, all in one run."""
    changed = dataclasses.replace(
        config,
        steps=2,
        loss=dataclasses.replace(config.loss, ctc=0.0, saliency=1.0, saliency_examples=2),
        remedies=RemedyConfig(self_attention_from=2, centre_attention_until=1, centre_attention_fade=1),
        optimizer=dataclasses.replace(config.optimizer, method="muon", precision="bfloat16", schedule="inverse_sqrt"),
        run=dataclasses.replace(config.run, report_every=1, dev_every=1, export_every=1),
    )
    done = train(changed, tmp_path, data=recordings)
    assert (done.step, done.per) == (2, None)  # no CTC head, no error rate
    assert train(changed, tmp_path, data=recordings, resume=True) == done
    assert all(value.dtype == np.float32 for value in params(tmp_path / "models" / "last").values())
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "saliency" in line] == [1, 2]
    assert not any("per" in line for line in logged)
    # The best one is that with the least loss of the decoder.
    measured = [line["attention"] for line in logged if line["part"] == "dev"]
    best = 1 + int(np.argmin(measured))
    assert done.best is not None
    assert_same(done.best, tmp_path / "models" / f"step-{best}")


def test_a_run_begins_with_the_parameters_of_a_model(unbroken, recordings: Path, config, still, tmp_path: Path):
    first = unbroken[0] / "models" / "last"
    done = train(still, tmp_path / "a", data=recordings, init=[first])
    assert done.model is not None
    ours, theirs = params(done.model), params(first)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, err_msg=name)
    # A run that learns nothing from the mean of two models leaves it as it is.
    thrice = load(first)
    nnx.update(thrice.network, jax.tree.map(lambda x: 3 * x, nnx.state(thrice.network)))
    save(thrice, tmp_path / "thrice")
    both = train(still, tmp_path / "c", data=recordings, init=[first, tmp_path / "thrice"])
    assert both.model is not None
    ours = params(both.model)
    for name in theirs:
        np.testing.assert_allclose(ours[name], 2 * theirs[name], rtol=1e-6, err_msg=name)
    other = dataclasses.replace(config, network=dataclasses.replace(config.network, dim=32))
    with pytest.raises(FormatError, match=r"cannot begin with .*: network\.dim is 16, the config has 32"):
        train(other, tmp_path / "b", data=recordings, init=[first])
    assert not (tmp_path / "b").exists()


def planted_batch(config):
    rng = np.random.default_rng(0)
    labels = [rng.integers(1, 5, size=4).astype(np.int32) for _ in range(8)]
    features = [np.repeat(y, 20)[:, None].astype(np.float16) * np.ones((1, 20), np.float16) for y in labels]
    spans = [np.full((4, 2), -1.0) for _ in labels]
    corpus = Corpus("planted", features, labels, spans, 1.0, [str(i) for i in range(8)])
    return batch(mixture([corpus], config.data, hop_s=0.01, seed=0), 1)[0]


def test_the_kept_model_is_a_running_mean_and_a_large_gradient_is_clipped(config):
    drawn = planted_batch(config)
    tx = optimizer(dataclasses.replace(config.optimizer, clip=1e-3, warmup=0), 10)
    graph, start = nnx.split(AED(config.network, rngs=nnx.Rngs(0)))
    mean = jax.device_get(start)
    state = TrainState(start, jax.tree.map(jnp.copy, start), tx.init(start))
    for n in (1, 2, 3):
        settings = settings_of(config, salient=False)
        state, metrics = update(
            state, drawn, jax.random.key(n), shares_at(config, 20), graph=graph, tx=tx, settings=settings
        )
        decay = min(config.optimizer.average, (1 + n) / (10 + n))
        now = jax.device_get(state.params)
        mean = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, mean, now)
        if n == 1:
            assert float(metrics["grad_norm"]) > 1e-3
            first_moment = optax.tree.get(state.moments, "mu")
            assert float(optax.tree.norm(first_moment)) == pytest.approx(0.1 * 1e-3, rel=1e-3)  # (1 - b1) clip
    for a, b in zip(jax.tree.leaves(jax.device_get(state.averaged)), jax.tree.leaves(mean), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_a_frozen_part_stays_as_it_is_and_the_others_learn_as_ever(config, method: str):
    drawn = planted_batch(config)
    graph, start = nnx.split(AED(config.network, rngs=nnx.Rngs(0)))
    after = {}
    for frozen in ((), ("encoder", "ctc_head")):
        some = dataclasses.replace(config.optimizer, method=method, clip=1e9, warmup=0, weight_decay=0.1, frozen=frozen)
        tx = optimizer(some, 10)
        settings = settings_of(dataclasses.replace(config, optimizer=some), salient=False)
        state = jax.tree.map(jnp.copy, TrainState(start, start, tx.init(start)))
        state, _ = update(state, drawn, jax.random.key(1), shares_at(config, 20), graph=graph, tx=tx, settings=settings)
        after[frozen] = jax.device_get(state.params)
    kept = jax.device_get(state.averaged)
    for (path, before), free, held, mean in zip(
        jax.tree_util.tree_leaves_with_path(start), *map(jax.tree.leaves, (*after.values(), kept)), strict=True
    ):
        name = jax.tree_util.keystr(path)
        if name.startswith("['decoder']") and "['key']['bias']" in name:
            continue  # the softmax does not see it: its gradient is rounding, which Adam makes as large as any
        if name.startswith("['decoder']"):
            np.testing.assert_allclose(held, free, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(held, before, err_msg=name)
            np.testing.assert_array_equal(mean, before, err_msg=name)
    assert optax.tree.norm(jax.tree.map(jnp.subtract, start, after[("encoder", "ctc_head")])) > 1e-3


def test_muon_steps_along_the_polar_factor_of_inner_matrices_and_as_adam_elsewhere(config):
    muon = dataclasses.replace(config.optimizer, method="muon", warmup=0, clip=1e9, weight_decay=0.0)
    _, start = nnx.split(AED(config.network, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), start)
    taken = {}
    adam = optax.adam(schedule(muon, 10), b2=muon.b2, nesterov=True)
    for name, tx in (("muon", optimizer(muon, 10)), ("adam", adam)):
        taken[name] = jax.device_get(jax.jit(lambda tx=tx: tx.update(grads, tx.init(start), start)[0])())
    inner = 0
    outer = set()
    for (path, step), (_, plain), (_, grad) in zip(
        *(jax.tree_util.tree_leaves_with_path(tree) for tree in (taken["muon"], taken["adam"], grads)), strict=True
    ):
        name = jax.tree_util.keystr(path)
        if np.allclose(step, plain, rtol=1e-5):
            outer.add(name.removesuffix(".value"))
            continue
        inner += 1
        steps, of_all = (np.reshape(tree, (-1, *step.shape[-2:])) for tree in (step, grad))
        for one, of in zip(steps, of_all, strict=True):
            left, _, right = np.linalg.svd(of, full_matrices=False)
            size = muon.peak * 0.2 * np.sqrt(max(one.shape))
            along = -np.diag(left.T @ one @ right.T) / size
            # Five iterations bring the singular values near 1 only, and very small ones not even that.
            assert (along > 0).all(), name
            assert (along < 1.3).all(), name
            assert 0.7 < np.median(along) < 1.2, name
            assert np.linalg.norm(one) == pytest.approx(size * np.linalg.norm(along), rel=1e-3), name
    assert inner > 10
    matrices = {name for name in outer if not name.endswith(("['bias']", "['scale']", "['shift']"))}
    assert matrices == {
        "['ctc_head']['kernel']",
        "['decoder']['embedding']",
        "['decoder']['project']['kernel']",
        "['encoder']['blocks']['convolution']['depthwise']",
        "['encoder']['blocks']['self_attention']['content_bias']",
        "['encoder']['blocks']['self_attention']['position_bias']",
        "['encoder']['stem']['first']['kernel']",
    }


def test_two_devices_compute_what_one_does(config, recordings: Path):
    # Muon, which has Adam in it.
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, method="muon"))
    rng = np.random.default_rng(0)
    labels = [rng.integers(1, 5, size=4).astype(np.int32) for _ in range(20)]
    features = [np.repeat(y, 20)[:, None].astype(np.float16) * np.ones((1, 20), np.float16) for y in labels]
    spans = [20.0 * np.arange(4)[:, None] + np.array([[0.0, 20.0]]) for _ in labels]
    corpus = Corpus("planted", features, labels, spans, 1.0, [str(i) for i in range(20)])
    drawn, _ = batch(mixture([corpus], config.data, hop_s=0.01, seed=0, devices=2), 1)
    tx = optimizer(config.optimizer, 10)
    results = []
    assert len(jax.devices()) >= 2, "tests/conftest.py asks for two"
    for devices in (jax.devices()[:1], jax.devices()[:2]):
        graph, start = nnx.split(AED(config.network, rngs=nnx.Rngs(0)))
        mesh = Mesh(np.array(devices), ("data",))
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        state = jax.device_put(TrainState(start, jax.tree.map(jnp.copy, start), tx.init(start)), spread)
        placed = place(drawn, mesh)
        assert len(placed.features.addressable_shards) == len(devices)
        for step in (1, 2):
            key = jax.random.fold_in(jax.random.key(0), step)
            settings = settings_of(config, salient=False)
            shares = shares_at(config, 20)
            state, metrics = update(state, placed, key, shares, graph=graph, tx=tx, settings=settings)
        results.append((jax.device_get(state.params), jax.device_get(metrics)))
    (one, one_metrics), (two, two_metrics) = results
    assert float(one_metrics["loss"]) == pytest.approx(float(two_metrics["loss"]), rel=1e-5)
    # Sums in another order, and Adam divides by small numbers: equal but for rounding.
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_a_loss_that_is_not_finite_stops_the_run_names_the_batch_and_keeps_the_state(
    recordings: Path, config, tmp_path: Path
):
    wild = dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, peak=1e30, clip=1e30, warmup=1),
        run=dataclasses.replace(config.run, checkpoint_every=100),
    )
    message = r"update \d+: the loss is (nan|inf).*Utterances of the batch: tones-\d+.*--init"
    for resume in (False, True):  # the second time the state is kept already
        with pytest.raises(GradalignError, match=message):
            train(wild, tmp_path, data=recordings, resume=resume)
    assert all(np.isfinite(value).all() for value in params(tmp_path / "models" / "last").values())
    from gradalign.training.checkpoint import Checkpoints

    kept = Checkpoints(tmp_path / "checkpoints", keep=1)
    _, start = nnx.split(AED(wild.network, rngs=nnx.Rngs(0)))
    tx = optimizer(wild.optimizer, 12)
    like = jax.device_put(TrainState(start, start, tx.init(start)), jax.devices()[0])
    step = kept.latest()
    assert step is not None
    state, _ = kept.restore(step, like)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.moments)))


def test_early_stopping_ends_a_run_that_gets_no_better(recordings: Path, still, tmp_path: Path):
    done = train(still, tmp_path, data=recordings)
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [line["per"] for line in logged if line["part"] == "dev"]
    # Twice no better than the best before, and for the first time so: parameters that stay move by rounding only.
    waits = [step - 1 - int(np.argmin(rates[:step])) for step in range(1, len(rates) + 1)]
    assert (done.step, done.reason) == (len(rates), "no better"), rates
    assert [step for step, waited in enumerate(waits, 1) if waited == 2] == [done.step], rates
    assert done.model is not None
    again = train(still, tmp_path, data=recordings, resume=True)
    assert (again.step, again.reason, again.model) == (done.step, "no better", done.model)


def test_a_folder_with_a_run_is_not_overwritten(unbroken, recordings: Path, config):
    out, _, _ = unbroken
    with pytest.raises(FormatError, match=r"holds a run already; go on with --resume"):
        train(config, out, data=recordings)
    other = dataclasses.replace(config, steps=13)
    with pytest.raises(FormatError, match=r"another config \(steps differ\)"):
        train(other, out, data=recordings, resume=True)
    other = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, method="muon"))
    with pytest.raises(FormatError, match=r"another config \(optimizer\.method differ\)"):
        train(other, out, data=recordings, resume=True)


def test_a_run_of_a_version_with_fewer_options_goes_on_and_one_without_config_does_not(
    unbroken, recordings: Path, config, tmp_path: Path
):
    out = tmp_path / "run"
    shutil.copytree(unbroken[0], out)
    before = json.loads((out / "config.json").read_text())
    del before["optimizer"]["method"], before["network"]["diagonal_bias"]
    (out / "config.json").write_text(json.dumps(before))
    assert train(config, out, data=recordings, resume=True).step == 12
    (out / "config.json").unlink()
    with pytest.raises(FormatError, match=r"checkpoints of a run whose config\.json is gone"):
        train(config, out, data=recordings, resume=True)


def test_a_run_does_not_go_on_with_other_data(recordings: Path, config, tmp_path: Path):
    train(config, tmp_path / "run", data=recordings, stop_after=1)
    lines = (recordings / "tones.jsonl").read_text().splitlines()
    fewer = [json.loads(line) for line in lines[:30]]
    for line in fewer:
        line["audio_filepath"] = str(recordings / line["audio_filepath"])
    (tmp_path / "tones.jsonl").write_text("".join(json.dumps(line) + "\n" for line in fewer))
    with pytest.raises(FormatError, match=r"trained with another data .*begin in another folder"):
        train(config, tmp_path / "run", data=tmp_path, resume=True)


def test_schedules_warm_up_and_fall():
    from gradalign.training.config import OptimizerConfig

    cosine = schedule(OptimizerConfig(peak=1.0, warmup=10, final=0.1), 100)
    assert [float(cosine(step)) for step in (0, 5, 10, 55, 100)] == pytest.approx([0.0, 0.5, 1.0, 0.55, 0.1], abs=1e-5)
    root = schedule(OptimizerConfig(peak=1.0, warmup=10, schedule="inverse_sqrt"), 100)
    assert [float(root(step)) for step in (5, 10, 40, 90)] == pytest.approx([0.5, 1.0, 0.5, 1 / 3], abs=1e-5)


def test_saliency_is_trained_when_it_is_due(config):
    loss = dataclasses.replace(config.loss, saliency=1.0, saliency_start=4, saliency_every=3, saliency_max_frames=640)
    some = dataclasses.replace(config, loss=loss)
    assert [step for step in range(1, 13) if saliency_due(some, step, 640)] == [6, 9, 12]
    assert not saliency_due(some, 6, 641)
    assert not any(saliency_due(config, step, 160) for step in range(1, 13))


def test_remedies_change_with_the_update(config):
    assert shares_at(config, 1)[2:] == (None, None)
    remedies = RemedyConfig(self_attention_from=5, centre_attention_until=10, centre_attention_fade=10)
    with_them = dataclasses.replace(config, remedies=remedies)
    assert [float(shares_at(with_them, step).self_attention) for step in (1, 4, 5, 9)] == [0, 0, 1, 1]
    assert [float(shares_at(with_them, step).cross_attention) for step in (1, 10, 15, 20, 30)] == [0, 0, 0.5, 1, 1]
    assert [float(shares_at(config, step).guide) for step in (1, 4, 6, 8, 20)] == [1, 1, 0.5, 0, 0]
    shares = [float(shares_at(config, step).augment) for step in (1, 2, 4, 6, 9)]
    assert shares == pytest.approx([0, 0, 0.3, 0.6, 0.6])


def test_weight_decay_spares_biases_and_norms(config):
    _, start = nnx.split(AED(config.network, rngs=nnx.Rngs(0)))
    settings = dataclasses.replace(config.optimizer, warmup=0, peak=1.0, weight_decay=0.5)
    tx = optimizer(settings, 10)
    ones = jax.tree.map(jnp.ones_like, start)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, start), tx.init(start), ones)
    flat = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(updates)}
    decayed = {name for name, leaf in flat.items() if leaf.any()}
    assert all(any(part in name for part in ("kernel", "embedding", "depthwise")) for name in decayed)
    assert not any("bias" in name or "scale" in name or "shift" in name for name in decayed)
    assert sum("kernel" in name for name in decayed) > 10


def test_flops_are_counted_through_scans_and_gradients():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert matmul_flops(lambda a, b: a @ b, a, b) == 2 * 3 * 4 * 5

    def repeated(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=7)[0].sum()

    assert matmul_flops(jax.jit(repeated), jnp.ones((3, 4)), jnp.ones((4, 4))) == 7 * 2 * 3 * 4 * 4
    assert matmul_flops(jax.grad(repeated, (0, 1)), jnp.ones((3, 4)), jnp.ones((4, 4))) == 3 * 7 * 2 * 3 * 4 * 4
    assert matmul_peak(64, rounds=1) > 0


def test_the_command_says_what_is_wrong(recordings: Path, tmp_path: Path, capsys):
    def fails(*argv: str) -> str:
        try:
            status = main(["train", *argv])
        except SystemExit as leaving:
            status = leaving.code
        assert status in (1, 2)
        return capsys.readouterr().err

    run, out = str(recordings / "run.toml"), str(tmp_path / "out")
    assert "no such training config" in fails(str(tmp_path / "missing.toml"), "-o", out)
    assert "nonesuch: no such training config; expected a TOML file" in fails("nonesuch", "-o", out)
    assert "where to? give -o FOLDER" in fails(run)
    assert "no option optimiser" in fails(run, "-o", out, "--set", "optimiser.peak=1.0")
    assert "no such file" in fails(run, "-o", out, "--data", str(tmp_path))
    # A mistake leaves nothing behind that the corrected command would stumble over.
    assert not Path(out).exists()
    assert "is a file, expected a folder" in fails(run, "-o", run)


def test_checking_a_corpus_reports_counts_and_names(recordings: Path, capsys):
    assert main(["train", str(recordings / "run.toml"), "--check"]) == 0
    assert "40 utterances, 40 usable" in capsys.readouterr().out


def test_cross_attention_that_falls_is_measured_and_warned_of(recordings):
    from planted import CONFIG, features_of, planted

    n = 36
    config = dataclasses.replace(read(recordings / "run.toml"), network=CONFIG)
    features = features_of(0, n)
    rows = 160
    example = Batch(
        np.pad(features, ((0, rows - len(features)), (0, 0)))[None],
        np.array([len(features)]),
        np.pad(np.arange(1, 21), (0, 4))[None],
        np.array([20]),
        np.full((1, 24, 2), -1, np.float32),
    )
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    flips = {}
    for reading in ("forwards", "backwards"):
        graph, params = nnx.split(planted(0, n, reading=reading).network)
        flips[reading] = measure(graph, params, [example], mesh, config)["cross_flip"]
    assert flips["forwards"] < -0.2
    assert flips["backwards"] > 0.2
    assert reversal_warning(flips["forwards"]) is None
    assert "Remedies, in a new run: loss.ctc = 0.3" in (reversal_warning(flips["backwards"]) or "")
