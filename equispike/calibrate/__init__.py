"""Thresholds: a method is a frozen dataclass, called with a network and calibration images."""
