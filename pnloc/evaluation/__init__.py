"""Metrics from tables of boxes, with intervals bootstrapped over patients."""
