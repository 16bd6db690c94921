"""A converted network run as spikes: one specification, and faster engines that must agree with it."""
