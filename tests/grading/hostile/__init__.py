"""Submissions that a grader meets, honest and hostile, each with the points that it has earned."""
