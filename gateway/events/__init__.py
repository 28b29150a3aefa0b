"""Events: what they say, and how they travel through RabbitMQ."""
