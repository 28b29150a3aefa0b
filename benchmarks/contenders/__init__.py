"""What is measured beside the gateway: the same brief written in other ways, and two roofs. One file each."""
