"""Everything that trains: one loop (loop.py), one file per recipe (recipes/), checkpoints and processes."""
