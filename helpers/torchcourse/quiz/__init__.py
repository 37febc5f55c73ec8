"""Questions, predictions and the learner's own record of them. Importing this imports neither torch nor a widget."""
