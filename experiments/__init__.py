"""The papers' tables and figures, computed again: ``python -m experiments`` in a checkout shows what there is."""
