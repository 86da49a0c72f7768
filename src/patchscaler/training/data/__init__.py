"""Training data: image sources, degradations, shards on disk."""
