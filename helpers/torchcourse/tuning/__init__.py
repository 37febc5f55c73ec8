"""Hyperparameter tuning (하이퍼파라미터 튜닝): searches kept in a database, and what their winner is worth.

`digits_task` (what is tuned) · `replay` (its results, trained once and looked up in milliseconds) · `study` (Optuna) ·
`ray_tune` (the same space on a cluster) · `selection` (what choosing among many trials does) · `study_pictures`
"""
