"""How good a model is: metrics, independent ears, and the mini suite with a task for every family of the report."""
