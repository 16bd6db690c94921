"""What a run kept and what it cost: pure functions of runs."""
