"""The two comments by which the grader speaks to the kernel. Lines of a submission that look like them are dropped."""

CAPTURE = "# omni-lab: exercise "  # then an exercise's id and the name of the function that answers it
PROBE = "# omni-lab: probe "  # then an exercise's id
