"""Hyperparameter tuning (하이퍼파라미터 튜닝): search methods by hand and by Optuna, compared at equal budgets.

`digits_task` (what is tuned) · `table` (its results, trained once and replayed in milliseconds) · `study` (Optuna)
"""
