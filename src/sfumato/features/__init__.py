"""Frozen public encoders: features learned on public data, the same for every private data set."""

from sfumato.features.encoder import Encoder, load_encoder

__all__ = ["Encoder", "load_encoder"]
