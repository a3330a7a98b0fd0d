"""Training data: batches of fixed shapes that keep features with their labels, the same for the same number."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gradalign.errors import AlignmentError, FormatError
from gradalign.training.config import DataConfig, Source
from gradalign.training.data import Corpus, batch, buckets, dev_batches, hold_out, mixture, read_corpora, stream

CONFIG = DataConfig(frames_per_batch=1280, lengths=(160, 320, 640), shares=(0.3, 0.3, 0.4))


def corpus(rng: np.random.Generator, n: int = 30, name: str = "planted", frames: int = 20) -> Corpus:
    """Utterances whose features tell their label: row value = label id."""
    labels = [rng.integers(1, 4, size=rng.integers(2, 6)).astype(np.int32) for _ in range(n)]
    features = [np.repeat(y, frames)[:, None].astype(np.float16) * np.ones((1, 20), np.float16) for y in labels]
    spans = [float(frames) * np.arange(len(y))[:, None] + np.array([[0.0, frames]]) for y in labels]
    return Corpus(name, features, labels, spans, 1.0, [f"{name}-{i}" for i in range(n)])


def test_batches_have_the_shapes_of_their_buckets_and_keep_features_with_labels(rng: np.random.Generator):
    source = mixture([corpus(rng)], CONFIG, hop_s=0.01, seed=0)
    seen = set()
    for step in range(1, 30):
        found, names = batch(source, step)
        seen.add(found.features.shape[:2])
        assert len(names) >= len(found.features)
        for x, n, y, m, at in zip(*found[:1], found.n_frames, found.labels, found.n_labels, found.spans, strict=True):
            assert (x[:n, 0].reshape(-1, 20)[:, 0] == y[:m]).all()
            assert not x[n:].any()
            assert not y[m:].any()
            np.testing.assert_array_equal(at[:m], 20 * np.arange(m)[:, None] + np.array([[0, 20]]))
            assert (at[m:] == -1).all()
    assert seen == {(b.size, b.frames) for b in buckets(CONFIG, hop_s=0.01)} == {(8, 160), (4, 320), (2, 640)}


def test_a_batch_depends_on_seed_and_number_alone(rng: np.random.Generator):
    source = mixture([corpus(rng)], CONFIG, hop_s=0.01, seed=5)
    for ours, theirs in zip(batch(source, 7)[0], batch(source, 7)[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert batch(source, 7)[1] != batch(source, 8)[1]
    assert batch(source, 7)[1] != batch(mixture([corpus(rng)], CONFIG, hop_s=0.01, seed=6), 7)[1]


def test_a_stream_begins_anywhere_with_the_batches_of_an_unbroken_one(rng: np.random.Generator):
    source = mixture([corpus(rng)], CONFIG, hop_s=0.01, seed=5)
    whole = [names for _, names in stream(source, 1, 9)]
    assert len(whole) == 9
    assert [names for _, names in stream(source, 4, 9)] == whole[3:]
    assert whole[4] == batch(source, 5)[1]


def test_easy_batches_hold_one_utterance_an_example_and_are_short(rng: np.random.Generator):
    config = DataConfig(frames_per_batch=1280, lengths=CONFIG.lengths, shares=CONFIG.shares, easy_steps=10)
    source = mixture([corpus(rng)], config, hop_s=0.01, seed=0)
    easy = [batch(source, step)[0] for step in range(1, 11)]
    assert all(b.n_labels.max() < 6 and b.features.shape[1] <= 320 for b in easy)
    assert any(batch(source, step)[0].n_labels.max() > 6 for step in range(11, 20))


def test_draws_follow_the_weights(rng: np.random.Generator):
    often, seldom = corpus(rng, name="often"), corpus(rng, name="seldom")
    often = Corpus("often", often.features, often.labels, often.spans, 3.0, often.ids)
    source = mixture([often, seldom], CONFIG, hop_s=0.01, seed=0)
    names = [name for step in range(1, 200) for name in batch(source, step)[1]]
    share = sum(name.startswith("often") for name in names) / len(names)
    assert share == pytest.approx(0.75, abs=0.03)


def test_utterances_too_long_for_a_bucket_are_drawn_for_longer_ones(rng: np.random.Generator):
    config = DataConfig(frames_per_batch=1280, lengths=(160, 1280), shares=(0.9, 0.1))
    source = mixture([corpus(rng, frames=100)], config, hop_s=0.01, seed=0)
    assert all(batch(source, step)[0].features.shape[1] in (160, 1280) for step in range(1, 20))
    assert {batch(source, step)[0].n_frames.max() > 160 for step in range(1, 20)} == {True}


def test_nothing_that_fits_is_an_error(rng: np.random.Generator):
    config = DataConfig(frames_per_batch=1280, lengths=(160,), shares=(1.0,))
    with pytest.raises(FormatError, match=r"no utterance of at most 1\.6 s and 32 labels; give longer data\.lengths"):
        mixture([corpus(rng, frames=100)], config, hop_s=0.01, seed=0)


def test_what_fits_only_a_bucket_without_a_share_is_an_error(rng: np.random.Generator):
    config = DataConfig(frames_per_batch=1280, lengths=(160, 640), shares=(1.0, 0.0))
    with pytest.raises(FormatError, match=r"no utterance of at most 1\.6 s"):
        mixture([corpus(rng, frames=100)], config, hop_s=0.01, seed=0)


def test_batches_divide_among_devices(rng: np.random.Generator):
    config = DataConfig(frames_per_batch=640, lengths=(640,), shares=(1.0,))
    assert [b.size for b in buckets(config, hop_s=0.01, devices=4)] == [4]


def test_dev_batches_hold_every_utterance_once(rng: np.random.Generator):
    found = dev_batches([corpus(rng)], CONFIG, hop_s=0.01)
    assert sum(int((b.n_labels > 0).sum()) for b in found) == 30
    assert all((b.n_frames == 20 * b.n_labels).all() for b in found)


def test_what_is_held_out_is_decided_by_name_and_not_trained_on(rng: np.random.Generator):
    many = corpus(rng, n=400)
    (train,), (dev,) = hold_out([many], 0.1)
    assert set(train.ids) | set(dev.ids) == set(many.ids)
    assert not set(train.ids) & set(dev.ids)
    assert 20 < len(dev.ids) < 60
    (_,), (fewer,) = hold_out([many.part(np.arange(400) < 200)], 0.1)
    assert set(fewer.ids) < set(dev.ids)
    (train,), (dev,) = hold_out([many], 0.0)
    assert not dev.ids


def write_manifest(folder: Path, rng: np.random.Generator, **changes) -> Path:
    soundfile.write(folder / "a.wav", 0.1 * rng.normal(size=16_000), 16_000)
    phones = [[0.0, 0.5, "AA"], [0.5, 1.0, "K"]]
    line = {"audio_filepath": "a.wav", "text": "ok", "set": "s", "id": "a", "duration": 1.0, "phones": phones} | changes
    (folder / "m.jsonl").write_text(json.dumps(line) + "\n")
    return folder


@pytest.fixture
def phone_bundle(tiny_bundle):
    """The tiny network under the names of CMUdict's phones, which a corpus is checked for."""
    import dataclasses

    return dataclasses.replace(tiny_bundle, labels=("AA", "B", "K"))


def test_a_manifest_becomes_features_and_labels(phone_bundle, tmp_path: Path, rng: np.random.Generator):
    write_manifest(tmp_path, rng)
    sources = (Source("m.jsonl", {"s": 2.0}),)
    for _ in range(2):  # the second time from the cache
        (found,) = read_corpora(sources, tmp_path, phone_bundle, tmp_path / "cache", max_frames=640)
        assert found.features[0].shape == (101, 20)
        assert found.labels[0].tolist() == [1, 3]
        np.testing.assert_allclose(found.spans[0], [[0, 50], [50, 100]])
        assert (found.weight, found.ids) == (2.0, ["a"])


def test_what_a_recogniser_heard_has_labels_and_no_times(phone_bundle, tmp_path: Path, rng: np.random.Generator):
    write_manifest(tmp_path, rng, text="", phones=None, heard=["K", "AA", "B"])
    (found,) = read_corpora((Source("m.jsonl"),), tmp_path, phone_bundle, tmp_path / "cache", max_frames=640)
    assert found.labels[0].tolist() == [3, 1, 2]
    assert (found.spans[0] == -1).all()


def test_a_part_of_a_recording_has_the_features_of_that_part(phone_bundle, tmp_path: Path, rng: np.random.Generator):
    write_manifest(tmp_path, rng, offset=0.25, duration=0.5, phones=[[0.0, 0.25, "AA"], [0.25, 0.5, "K"]])
    (part,) = read_corpora((Source("m.jsonl"),), tmp_path, phone_bundle, tmp_path / "cache", max_frames=640)
    samples, _ = soundfile.read(tmp_path / "a.wav")
    soundfile.write(tmp_path / "a.wav", samples[4000:12000], 16_000)
    line = {"audio_filepath": "a.wav", "text": "ok", "id": "b", "phones": [[0.0, 0.25, "AA"], [0.25, 0.5, "K"]]}
    (tmp_path / "m.jsonl").write_text(json.dumps(line) + "\n")
    (whole,) = read_corpora((Source("m.jsonl"),), tmp_path, phone_bundle, tmp_path / "cache", max_frames=640)
    np.testing.assert_array_equal(part.features[0], whole.features[0])


def test_a_set_that_is_not_there_is_named(phone_bundle, tmp_path: Path, rng: np.random.Generator):
    write_manifest(tmp_path, rng)
    with pytest.raises(FormatError, match=r"m\.jsonl has no set t; it has s"):
        read_corpora((Source("m.jsonl", {"t": 1.0}),), tmp_path, phone_bundle, tmp_path / "c", max_frames=640)


def test_a_set_without_anything_usable_is_named(phone_bundle, tmp_path: Path, rng: np.random.Generator):
    write_manifest(tmp_path, rng, audio_filepath="b.wav")
    with pytest.raises(FormatError, match=r"no utterance of the set s can be used"):
        read_corpora((Source("m.jsonl", {"s": 1.0}),), tmp_path, phone_bundle, tmp_path / "c", max_frames=640)


def test_a_corpus_without_anything_usable_is_named_and_the_reason_logged(
    phone_bundle, tmp_path: Path, rng: np.random.Generator, caplog
):
    write_manifest(tmp_path, rng, audio_filepath="b.wav")
    with pytest.raises(FormatError, match=r"m\.jsonl: no utterance can be used; see the report above"):
        read_corpora((Source("m.jsonl"),), tmp_path, phone_bundle, tmp_path / "c", max_frames=640)
    assert "missing audio: 1: a" in caplog.text  # a warning, which --quiet shows too


def test_a_phone_the_model_lacks_is_named(tiny_bundle):
    with pytest.raises(AlignmentError, match=r"no label for \['ZH'\]"):
        tiny_bundle.ids(("A", "ZH"))
