"""Fixtures and settings shared by all tests."""

import os

# The second flag is what `gradalign.cache.compiler_options` tells XLA, for programs of the tests themselves.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2 --xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("MPLBACKEND", "Agg")
# Most of the time of these tests is spent compiling programs that run once. Programs that they start see this too.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import numpy as np
import pytest
from hypothesis import settings
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_numpy_rank_promotion", "raise")

# Nothing is timed in the tests: a loaded machine must not fail them.
settings.register_profile("gradalign", deadline=None)
settings.load_profile("gradalign")


@pytest.fixture(scope="session")
def program_folder(tmp_path_factory) -> str:
    """Where compiled programs are kept for all tests, those of other processes of this session too."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "programs"
    folder.mkdir(exist_ok=True)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def forget_programs(program_folder):
    """Drop compiled programs after each file of tests: each holds memory maps, and a process may have only so many.

    (Linux allows 65,530 by default; past them XLA dies of a segmentation fault.) Those that took long to compile are
    on disk for the next file that wants the same. A test of the command line may have set another folder.
    """
    jax.config.update("jax_compilation_cache_dir", program_folder)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    jax.clear_caches()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20241)


@pytest.fixture
def run_command(capsys):
    """Runs a command: status, standard output, standard error."""
    from gradalign import cli

    def run(*arguments) -> tuple[int, str, str]:
        try:
            status = cli.main([*map(str, arguments)])
        except SystemExit as left:
            status = int(left.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run


@pytest.fixture(scope="session")
def tiny_bundle():
    """A network that compiles quickly, all of its numbers random, with features and labels of its own."""
    import jax.numpy as jnp
    from flax import nnx

    from gradalign.bundle import Bundle
    from gradalign.features import LogMel
    from gradalign.nn.aed import AED
    from gradalign.nn.config import AEDConfig

    config = AEDConfig(
        n_mels=20,
        vocabulary=4,
        dim=16,
        heads=2,
        encoder_layers=2,
        decoder_layers=2,
        feed_forward_dim=32,
        conv_kernel=5,
        stem_channels=4,
    )
    graph, state = nnx.split(nnx.eval_shape(lambda: AED(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(7)
    state = jax.tree.map(lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), jnp.float32), state)
    return Bundle("tiny", nnx.merge(graph, state), LogMel(n_mels=20), ("A", "B", "K"), card="A tiny model.\n")
