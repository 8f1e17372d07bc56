"""The upload of histograms."""
