"""`isae-analyze curves`: curve detectors among features and neurons by one criterion."""
