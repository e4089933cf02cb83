"""What people see on a terminal, and how they interrupt what runs there."""
