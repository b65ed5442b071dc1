"""What tests share: tiny models, contracts that tests inherit, stand-ins that count or fail."""
