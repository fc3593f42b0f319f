"""Grading a class: release, collect, sanitise, execute in a sandbox, compare outside, gradebook.

A submission is untrusted code. Nothing that it prints, stores or patches can earn a point: the grader sends inputs
into a sandbox, takes plain data out and compares here, in a process that the student's code never enters.
"""
