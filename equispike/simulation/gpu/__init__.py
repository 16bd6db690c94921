"""The engine for GPUs: asked for by name."""
