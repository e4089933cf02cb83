"""The parts of the analytic mode: settings and formulas of the model, selection on counts, and points of rest."""
