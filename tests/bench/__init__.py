"""Figures, not checks: run by `make bench`, one module a subject. Ratios compare within one run on one machine."""
