"""What people report about places."""
