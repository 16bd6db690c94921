"""Accuracy, errors and costs of a run: pure functions of runs."""
