"""The domain table built from a DAWG, and the lookup of question names in it."""
