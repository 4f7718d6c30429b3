"""`isae-analyze tuning`: answers of features and neurons to drawn stimuli."""
