"""The methods that the localizer is compared with."""
