"""`isae-analyze visualise`: patches of every feature, and pictures by optimisation."""
