"""For a teacher: grade a class with nbgrader, one submission at a time, and report what happened to each."""
