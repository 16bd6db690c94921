"""Networks and models in files. Loading never runs code from them."""
