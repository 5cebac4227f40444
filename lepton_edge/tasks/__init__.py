"""What people run models for: embeddings, labels, entities, answers.  Each task is a module of functions of a model."""
