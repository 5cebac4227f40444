"""Model folders: config.json and *.safetensors, checked before anything is believed, and read without copying."""

from lepton_edge.checkpoint.store import Checkpoint, Weight

__all__ = ["Checkpoint", "Weight"]
