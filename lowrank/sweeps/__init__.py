"""Many runs: what a study consists of, what of it is missing, and who trains that."""
