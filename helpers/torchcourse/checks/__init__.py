"""What the check cells of the lessons call: one module a lesson, each check turning a symptom into a hint."""
