"""The tables and figures of the papers, one file each: recomputed here, beside the published numbers."""
