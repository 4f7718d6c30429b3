"""`isae-analyze label`: names of features without a language model, scored on unseen images."""
