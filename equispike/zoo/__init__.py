"""The papers' networks, the data they are trained on, and how they are trained."""
