"""``gradalign info``."""

import argparse

from gradalign.cache import prepare_jax
from gradalign.errors import FormatError


def run(args: argparse.Namespace) -> int:
    """Describe a model."""
    prepare_jax()
    import jax

    from gradalign import bundle as bundles

    try:
        bundle = bundles.load(args.model)
        calibrated = bundle.calibrated_on or "no: gradalign calibrate does it"
    except FormatError as error:
        # What it has learnt from times may be of other parameters; the model itself can be described all the same.
        bundle = bundles.load(args.model, calibrated=False)
        calibrated = f"no: {error}"
    config, features = bundle.network.config, bundle.features
    rows = {
        "model": bundle.name,
        "folder": bundles.folder_of(args.model),
        "parameters": f"{bundle.network.n_parameters():,}",
        "encoder": f"{config.encoder_layers} Conformer blocks of width {config.dim}, {config.heads} heads",
        "decoder": f"{config.decoder_layers} Transformer layers",
        "features": f"{features.n_mels} log-mel bands of {features.sample_rate} Hz sound",
        "frames": f"{1000 * bundle.grid.hop_s:g} ms; of the encoder {1000 * bundle.encoder_grid.hop_s:g} ms",
        "longest": f"{bundle.max_duration_s:g} s in one piece",
        "calibrated": calibrated,
        "leaves": ", ".join(["features", "stem", *(f"block-{k + 1}" for k in range(config.encoder_layers)), "encoder"]),
        "labels": f"{len(bundle.labels)}: {' '.join(bundle.labels)}",
        "time order": bundle.time_order or 'not inspected; see "gradalign inspect"',
        "runs on": f"{jax.default_backend()}, gradients in windows multiplied in {bundle.network.windows_in}",
    }
    for name, value in rows.items():
        print(f"{name:<11} {value}")
    print("\n" + bundle.card.strip() if bundle.card.strip() else "\nThis model has no card (card.md).")
    return 0
