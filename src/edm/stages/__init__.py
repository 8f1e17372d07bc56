"""The stages of the pipeline, one package each; none imports another."""
