"""The study: every strategy and bridge on the same upgrade, with equal steps and data.

    python -m benchmarks.study --help

`recipes` says what is compared, `cells` is what is trained, each once, `store` keeps it, `training`
makes it, `measure` turns stored vectors into figures, `frozen` guards the part test, and `tables`
writes it all down.
"""
