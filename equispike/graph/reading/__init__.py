"""Reading a model: its operations, traced by ``torch.export``, become those of a Network."""
