"""The network once more in PyTorch, with the same weights: what the usual way of taking gradients is measured on.

Plain eager code with ``torch.nn.functional``, one utterance, no padding; relative positions only. Not for use.
"""

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  (only with the extra "bench")
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from flax import nnx

from gradalign.nn.aed import AED


class TorchAED:
    """`AED.label_log_probs` in PyTorch."""

    def __init__(self, network: AED):
        self.config = network.config
        if network.config.positions != "relative":
            raise ValueError(f"only relative positions are written here, got {network.config.positions!r}")
        self.p = _tensors(nnx.to_pure_dict(nnx.state(network, nnx.Param)))

    def label_log_probs(self, features: Any, labels: Any) -> Any:
        """Teacher-forced log-probability of each label; ``features`` is a tensor [frames, mels]."""
        x = self.stem(features)
        blocks = self.p["encoder"]["blocks"]
        for layer in range(self.config.encoder_layers):
            x = self.block(x, _slice(blocks, layer))
        return self.decoder(x, labels)

    def stem(self, features: Any) -> Any:
        """Encoder frames."""
        p = self.p["encoder"]["stem"]
        x = ((features - self.config.feature_mean) / self.config.feature_scale)[None, None]
        channels = 1
        for name in ("first", "second"):
            kernel = p[name]["kernel"].reshape(3, 3, channels, -1).permute(3, 2, 0, 1)
            x = F.silu(F.conv2d(x, kernel, p[name]["bias"], stride=2, padding=1))
            channels = kernel.shape[0]
        return linear(p["project"], x[0].permute(1, 2, 0).flatten(1))

    def block(self, x: Any, p: Any) -> Any:
        """A Conformer block."""
        x = x + 0.5 * feed_forward(p["first_feed_forward"], x)
        normed = norm(p["attention_norm"], x)
        x = x + self.attention(p["self_attention"], normed, normed)
        x = x + self.convolution(p["convolution"], x)
        x = x + 0.5 * feed_forward(p["second_feed_forward"], x)
        return norm(p["norm"], x)

    def convolution(self, p: Any, x: Any) -> Any:
        """The convolution module."""
        gated = F.glu(linear(p["expand"], norm(p["norm"], x)), -1)
        kernel = p["depthwise"]
        mixed = F.conv1d(gated.T[None], kernel.T[:, None], padding=len(kernel) // 2, groups=kernel.shape[1])[0].T
        return linear(p["project"], F.silu(norm(p["inner_norm"], mixed)))

    def attention(self, p: Any, x: Any, memory: Any, causal: bool = False) -> Any:
        """Attention, with relative positions where there are parameters for them."""
        heads, n, m = self.config.heads, len(x), len(memory)
        query, key, value = (
            linear(p[name], rows).reshape(len(rows), heads, -1).transpose(0, 1)
            for name, rows in (("query", x), ("key", memory), ("value", memory))
        )
        if "position" in p:
            codes = linear(p["position"], sinusoids(torch.arange(n - 1, -n, -1.0), x.shape[1]))
            codes = codes.reshape(2 * n - 1, heads, -1).transpose(0, 1)
            by_distance = (query + p["position_bias"][:, None]) @ codes.transpose(1, 2)
            shifted = F.pad(by_distance, (1, 0)).reshape(heads, 2 * n, n)[:, 1:].reshape(heads, n, 2 * n - 1)
            logits = (query + p["content_bias"][:, None]) @ key.transpose(1, 2) + shifted[:, :, :n]
        else:
            logits = query @ key.transpose(1, 2)
        logits = logits / np.sqrt(query.shape[-1])
        if causal:
            logits = logits.masked_fill(~torch.tril(torch.ones(n, m, dtype=torch.bool)), -1e30)
        attended = torch.softmax(logits, -1) @ value
        return linear(p["out"], attended.transpose(0, 1).reshape(n, -1))

    def decoder(self, memory: Any, labels: Any) -> Any:
        """Log-probability of each label."""
        p, config = self.p["decoder"], self.config
        history = torch.cat([torch.zeros(1, dtype=labels.dtype), labels[:-1]])
        x = p["embedding"][history] + sinusoids(torch.arange(len(labels)).float(), config.dim)
        memory = memory + sinusoids(torch.arange(len(memory)).float(), config.dim)
        for index in range(config.decoder_layers):
            layer = _slice(p["layers"], index)
            normed = norm(layer["self_norm"], x)
            x = x + self.attention(layer["self_attention"], normed, normed, causal=True)
            x = x + self.attention(layer["cross_attention"], norm(layer["cross_norm"], x), memory)
            x = x + feed_forward(layer["feed_forward"], x)
        log_probs = torch.log_softmax(linear(p["project"], norm(p["norm"], x)), -1)
        return log_probs[torch.arange(len(labels)), labels]


def saliency(network: TorchAED, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The usual way: one ``torch.autograd.grad`` a label, the graph kept."""
    leaf = torch.tensor(features, requires_grad=True)
    scores = network.label_log_probs(leaf, torch.tensor(labels, dtype=torch.long))
    rows = []
    for index in range(len(labels)):
        (gradient,) = torch.autograd.grad(scores[index], leaf, retain_graph=True)
        rows.append(gradient.norm(dim=1))
    return torch.stack(rows).numpy()


def linear(p: Any, x: Any) -> Any:
    """``x @ kernel + bias``."""
    y = x @ p["kernel"]
    return y + p["bias"] if "bias" in p else y


def norm(p: Any, x: Any) -> Any:
    """Layer normalisation."""
    return F.layer_norm(x, x.shape[-1:], p["scale"], p["shift"], eps=1e-6)


def feed_forward(p: Any, x: Any) -> Any:
    """The feed-forward module."""
    return linear(p["project"], F.silu(linear(p["expand"], norm(p["norm"], x))))


def sinusoids(positions: Any, dim: int) -> Any:
    """Position codes, sines first."""
    rates = torch.tensor(np.exp(-np.log(10_000.0) * np.arange(0, dim, 2) / dim).astype(np.float32))
    angles = positions[:, None] * rates[None]
    return torch.cat([torch.sin(angles), torch.cos(angles)], -1)


def _tensors(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _tensors(child) for name, child in tree.items() if child is not None}
    return torch.tensor(np.asarray(tree))


def _slice(tree: Any, index: int) -> Any:
    return {n: _slice(c, index) if isinstance(c, dict) else c[index] for n, c in tree.items()}
