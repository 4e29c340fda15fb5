"""The target model: loading it, and running one batched step of it."""
