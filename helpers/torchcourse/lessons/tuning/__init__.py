"""Hyperparameter tuning (하이퍼파라미터 튜닝): searches by hand and kept in a database, and what their winner is worth.

By hand: `lr_range` (the range test) · `search` (trials, a budget, random and grid) · `random_or_grid` (where it
matters) · `halving` (successive halving, ASHA) · `population` (schedules) · `compare` (equal budgets, many seeds) ·
`search_pictures`

What is tuned: `digits_task` · `replay` (its results, trained once and looked up in milliseconds)

With libraries: `study` (Optuna) · `ray_tune` (the same space on a cluster) · `selection` (what choosing among many
trials does) · `study_pictures`
"""

LESSON = 3
