"""What is wrong with a machine or a deployment: one check a file, facts in, findings out."""
