"""Severity of COVID-19 pneumonia from the image alone."""
