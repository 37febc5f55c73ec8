"""Where handed-in code runs: forked from a process that has PyTorch imported already, in namespaces of its own.

Read `box` (what a grader uses), then `warm` (the process that forks), then `isolation` (what a child cannot reach).
"""
