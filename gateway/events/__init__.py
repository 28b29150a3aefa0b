"""Events: their content, and their transport through RabbitMQ."""
