"""The pages for people in a browser: the page at `/`, which shows the gateway at work, and Swagger UI at `/docs`."""
