"""What people run models for: embeddings, labels, entities, answers.  Each task is a module of functions of a model."""

from lepton_edge.tasks.mixin import Tasks

__all__ = ["Tasks"]
