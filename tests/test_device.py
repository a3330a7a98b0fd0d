"""What the machine is said to be good at."""

import jax
import pytest

from gradalign import device


@pytest.mark.parametrize(
    ("flags", "backend", "fast"),
    [
        ("flags : fpu avx512_bf16 amx_bf16 amx_tile", "cpu", True),
        ("flags : fpu avx512_bf16 amx_bf16 amx_tile", "gpu", False),
        ("flags : fpu avx512f avx2", "cpu", False),
        (None, "cpu", False),
    ],
)
def test_bfloat16_is_fast_where_the_cpu_has_tiles_for_it(tmp_path, monkeypatch, flags, backend, fast: bool):
    info = tmp_path / "cpuinfo"
    if flags is not None:
        info.write_text(flags + "\n")
    monkeypatch.setattr(device, "_CPU_INFO", info)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert device.fast_bfloat16.__wrapped__() is fast
