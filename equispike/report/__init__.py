"""One page from run files: what was converted, what was lost, and how the network decides."""
