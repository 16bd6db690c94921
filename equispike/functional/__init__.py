"""Tensors in, tensors out. Nothing here knows of models, networks or files."""
