"""The suite's tasks, a file for each kind of ability."""
