"""Lesson 03, hyperparameter tuning (하이퍼파라미터 튜닝): searches by hand and in a database, what a winner is worth.

digits_task     what is tuned: a small network on few digits
replay          its results, trained once and looked up in microseconds
lr_range        the range test of the learning rate
space           its values: in an order that lasts, as a database keeps them
search          trials, a budget in epochs, random and grid search
random_or_grid  where random search is ahead of a grid
halving         successive halving, and ASHA
comparison      methods at equal budgets, over many seeds
study           studies by Optuna in a database, resumed and shared
trial_progress  the line of a search that moves
_database       signs of life, dead trials, errors in words
ray_tune        the same space on a cluster
selection       what choosing among many trials does to the score
checks          of the exercises

Pictures: `X_picture` beside the `X` that it draws.
"""

LESSON = 3
