"""The version, in a file of its own: the build reads it, and `lepton --version` need import nothing else."""

__version__ = "0.1.0"
