"""Where compiled programs are kept between runs of the command line, so that only the first one compiles."""

import logging
import os
import sys
import warnings
from pathlib import Path


def prepare_jax() -> None:
    """Import JAX without noise, and let it keep compiled programs between runs.

    A cache that the user has set for JAX (``JAX_COMPILATION_CACHE_DIR``) is left as it is.
    """
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    import jax

    folder = cache_folder()
    if folder is None or jax.config.values.get("jax_compilation_cache_dir") is not None:
        return
    warnings.filterwarnings("ignore", message=".*persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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


def spare_memory_maps(share: float = 0.5) -> None:
    """Drop compiled programs if they hold too many memory maps; the folder of programs gives them back when needed.

    Linux allows a process 65,530 maps by default, and each program takes some. Past that, XLA dies with "Unable to
    allocate section memory" or a segmentation fault, which a corpus of many different lengths would run into.

    Args:
        share: Of the maps that are allowed; with more than this in use, all programs are dropped.
    """
    try:
        allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
        used = Path("/proc/self/maps").read_bytes().count(b"\n")
    except (OSError, ValueError):  # not Linux
        return
    if used > share * allowed:
        import jax

        jax.clear_caches()
