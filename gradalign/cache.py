"""Where compiled programs are kept: between runs of the command line, and in memory while they are used."""

import ctypes
import gc
import logging
import os
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from threading import RLock
from typing import Any, Generic, TypeVar

R = TypeVar("R")


COLLECT = (50_000, 20, 50)
"""Thresholds of Python's garbage collector, by default 700, 10 and 10: tracing and lowering make so many objects
that it takes a tenth of the time of a new process."""


def prepare_jax() -> None:
    """Import JAX without noise, and let it keep compiled programs between runs, and memory between calls.

    For processes of our own, whose memory is ours; their garbage is looked for less often, see `COLLECT`. A cache that
    the user has set for JAX (``JAX_COMPILATION_CACHE_DIR``) is left as it is.
    """
    _keep_freed_memory()
    gc.set_threshold(*COLLECT)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    import jax

    folder = cache_folder()
    if folder is None or jax.config.values.get("jax_compilation_cache_dir") is not None:
        return
    warnings.filterwarnings("ignore", message=".*persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed, up to a quarter of a GiB; elsewhere do nothing.

    A program of XLA takes tens of MiB at each call, which glibc by default takes from Linux anew: 11,000 page faults,
    and 5 to 10 % of the time of gradients in windows.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    # From malloc.h: no block is mapped by itself (M_MMAP_MAX), and so much stays free at the end (M_TRIM_THRESHOLD).
    for parameter, value in ((-4, 0), (-1, 256 << 20)):
        mallopt(parameter, value)


def cache_folder() -> Path | None:
    """The folder of compiled programs, made if need be.

    It is ``jax`` in the folder that the environment variable ``GRADALIGN_CACHE`` names, else in
    ``gradalign`` in the user's folder of caches.

    Returns:
        The folder; None where it cannot be made or written to, or ``GRADALIGN_CACHE`` is empty.
    """
    asked = os.environ.get("GRADALIGN_CACHE")
    if asked == "":
        return None
    if asked is not None:
        root = Path(asked)
    elif sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser() / "gradalign"
    elif sys.platform == "darwin":
        root = Path("~/Library/Caches/gradalign").expanduser()
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gradalign"
    try:
        (root / "jax").mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return root / "jax" if os.access(root / "jax", os.W_OK) else None


_FASTER = {"xla_cpu_use_fusion_emitters": False}
"""XLA's newer way of making loops for a CPU compiles each of them apart, which takes twice as long, for programs that
are no faster."""


@cache
def compiler_options() -> dict[str, bool]:
    """What XLA is told about compiling; nothing on other devices than CPUs, or where it does not know the option."""
    import jax

    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=_FASTER).lower().compile()
    except RuntimeError:
        return {}
    return _FASTER


class by_shape(Generic[R]):
    """``jax.jit`` for functions that meet many shapes: programs that were not used for long are dropped.

    On a CPU each kernel of a program takes three memory maps and some 0.1 MB a map, so that all programs for one shape
    take 900 maps and 100 MB. A corpus of many different lengths would fill the memory, or get to the 65,530 maps that
    Linux allows by default, past which XLA dies with "Unable to allocate section memory" or a segmentation fault. JAX
    frees a program when the function that it was made of is gone, so each shape gets a function of its own. A program
    that was dropped and is needed again comes from the folder of programs: whoever has many recordings takes them in
    order of length.
    """

    def __init__(self, function: Callable[..., R], *, static_argnames: tuple[str, ...] = ()) -> None:
        """Compile a function as ``jax.jit`` does.

        Args:
            function: Pure; arrays and trees of them go in.
            static_argnames: As for ``jax.jit``.
        """
        self.__wrapped__ = function
        self._static = static_argnames

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        """Call the program for these shapes; inside of another program become part of that."""
        import jax
        from jax.core import Tracer

        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs))):
            return self.__wrapped__(*args, **kwargs)
        return self._program(args, kwargs)(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As the method of a function that went through ``jax.jit``."""
        return self._program(args, kwargs).lower(*args, **kwargs)

    def _program(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        import jax

        shapes = tuple(leaf.shape for leaf in jax.tree.leaves((args, kwargs)) if hasattr(leaf, "shape"))
        key = (self, shapes)
        with _lock:
            if key not in _programs:
                drop_programs()
                function = self.__wrapped__
                own = wraps(function)(lambda *args, **kwargs: function(*args, **kwargs))
                _programs[key] = jax.jit(own, static_argnames=self._static, compiler_options=compiler_options())
            _programs.move_to_end(key)
            return _programs[key]


_programs: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
"""Functions by what they compute and for which shapes; those used last stand last."""

_lock = RLock()
"""Of `_programs`, which several threads may use."""


MAPS = 30_000
"""Memory maps above which programs are dropped: those of some 30 shapes, 3 GB."""

MAPS_IN_ORDER = 8_000
"""The same where recordings come in order of length: a shape that is done with does not come again, so that half an
hour stays below 3 GB."""


def drop_programs(most: int = MAPS) -> None:
    """Drop the half of all `by_shape` programs that was not used for longest, if they hold too much.

    Args:
        most: Memory maps of the process; with more than this in use, programs are dropped.
    """
    try:
        used = Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:  # not Linux
        return
    if used > most:
        with _lock:
            for _ in range(-(-len(_programs) // 2)):
                _programs.popitem(last=False)
        gc.collect()
