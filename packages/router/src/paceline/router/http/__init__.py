"""The OpenAI-compatible HTTP door. It needs the packages of `paceline-router[http]`; nothing else imports it early."""
