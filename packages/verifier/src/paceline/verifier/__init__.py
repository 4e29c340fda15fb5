"""The verifier: hosts the target model and confirms many drafted tokens in one forward pass."""
