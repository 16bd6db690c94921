"""A network as plain data, and how one is read from a PyTorch model and rewritten."""
